"""The subcommands, joined."""

import typer

from neatstack.cli import (
    capture,
    dashboard,
    doctor,
    down,
    experiment,
    kill,
    metrics,
    ping,
    rejuvenate,
    run,
    scale,
    ss,
    status,
    top,
    up,
    upgrade,
)

app = typer.Typer(
    name="neat",
    help="A TCP/IP network stack in user space, split over isolated replicas.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(name="up", epilog=up.EXAMPLES)(up.up)
app.command(name="run", epilog=run.EXAMPLES, context_settings={"allow_interspersed_args": False})(run.run)
app.command(name="status", epilog=status.EXAMPLES)(status.status)
app.command(name="ss", epilog=ss.EXAMPLES)(ss.ss)
app.command(name="capture", epilog=capture.EXAMPLES)(capture.capture)
app.command(name="ping", epilog=ping.EXAMPLES)(ping.ping)
app.command(name="kill", epilog=kill.EXAMPLES)(kill.kill)
app.command(name="scale", epilog=scale.EXAMPLES)(scale.scale)
app.command(name="rejuvenate", epilog=rejuvenate.EXAMPLES)(rejuvenate.rejuvenate)
app.command(name="top", epilog=top.EXAMPLES)(top.top)
app.command(name="dashboard", epilog=dashboard.EXAMPLES)(dashboard.dashboard)
app.command(name="metrics", epilog=metrics.EXAMPLES)(metrics.metrics)
app.command(name="upgrade", epilog=upgrade.EXAMPLES)(upgrade.upgrade)
app.command(name="down", epilog=down.EXAMPLES)(down.down)
app.command(name="doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
app.add_typer(experiment.app, name="experiment")
