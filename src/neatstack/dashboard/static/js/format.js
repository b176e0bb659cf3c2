// Numbers and times as people read them.

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const MEGA = 1e6;

export const NOTHING = "–";

export const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** A count: in full up to five digits. */
export const count = (value) => (!isNumber(value) ? NOTHING : value < 1e5 ? plain.format(value) : compact.format(value));

/** Bytes/s as MB/s. */
export const megabytes = (bytes) => {
  if (!isNumber(bytes)) return NOTHING;
  const value = bytes / MEGA;
  return value >= 100 ? plain.format(value) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
};

export const percent = (share) => (isNumber(share) ? `${Math.round(share * 100)} %` : NOTHING);

export const milliseconds = (value) => {
  if (!isNumber(value)) return NOTHING;
  return `${value >= 100 ? plain.format(value) : value >= 10 ? value.toFixed(1) : value.toFixed(2)} ms`;
};

/** Seconds since 1970 as a time of day. */
export const timeOfDay = (seconds) => (isNumber(seconds) ? clock.format(new Date(seconds * 1000)) : NOTHING);

/** Seconds as the two greatest units. */
export function duration(seconds) {
  if (!isNumber(seconds)) return NOTHING;
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => seconds >= size);
  if (first < 0) return "0 s";
  const [[unit, size], next] = [units[first], units[first + 1]];
  const whole = Math.floor(seconds / size);
  const rest = next ? Math.floor((seconds % size) / next[1]) : 0;
  return rest ? `${whole} ${unit} ${rest} ${next[0]}` : `${whole} ${unit}`;
}

export const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
