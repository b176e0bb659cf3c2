"""`neat experiment`: measurements of this machine's stack that anybody can repeat."""

import typer

from neatstack.cli.experiment import elasticity, flood, flows, path, recovery, reload, scaling

app = typer.Typer(help="Measure what the stack claims.", no_args_is_help=True)
app.command(epilog=recovery.EXAMPLES)(recovery.recovery)
app.command(epilog=elasticity.EXAMPLES)(elasticity.elasticity)
app.command(epilog=scaling.EXAMPLES)(scaling.scaling)
app.command(epilog=flows.EXAMPLES)(flows.flows)
app.command(epilog=flood.EXAMPLES)(flood.flood)
app.command(epilog=reload.EXAMPLES)(reload.reload)
app.command(epilog=path.GOODPUT_EXAMPLES)(path.goodput)
app.command(epilog=path.FAIRNESS_EXAMPLES)(path.fairness)
