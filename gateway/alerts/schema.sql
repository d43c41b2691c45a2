-- The outbox of a gateway without a shared store. Times are epoch seconds.
-- Every table is bounded by the constants of gateway/alerts/outbox.py.

-- version: changes of incidents and silences; serial: of the event log;
-- lost:REASON: what was dropped because a table was full.
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE incidents (
  id TEXT PRIMARY KEY,
  body BLOB NOT NULL,              -- the detector's output, JSON
  severity INTEGER NOT NULL,
  action INTEGER NOT NULL,
  score REAL NOT NULL,
  class TEXT NOT NULL,
  opened REAL NOT NULL,
  ended REAL NOT NULL DEFAULT 0,   -- 0: open
  acknowledged_by TEXT NOT NULL DEFAULT '',
  acknowledged_at REAL NOT NULL DEFAULT 0,
  resolved_by TEXT NOT NULL DEFAULT ''
);
CREATE INDEX incidents_ended ON incidents (ended);
-- Gateways that hold an incident open, each with its own id of it.
CREATE TABLE reporters (
  incident TEXT NOT NULL,
  gateway TEXT NOT NULL,
  local TEXT NOT NULL,
  seen REAL NOT NULL,
  PRIMARY KEY (incident, gateway)
) WITHOUT ROWID;
-- Every id that a gateway gave an incident.
CREATE TABLE aliases (
  gateway TEXT NOT NULL,
  local TEXT NOT NULL,
  incident TEXT NOT NULL,
  PRIMARY KEY (gateway, local)
) WITHOUT ROWID;
CREATE INDEX aliases_incident ON aliases (incident);
-- Causes of open incidents: a report with one of them joins that incident.
CREATE TABLE causes (cause TEXT PRIMARY KEY, incident TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX causes_incident ON causes (incident);

-- Begun events whose end is still to be logged (StandaloneEvent.key).
CREATE TABLE begun (key TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX begun_until ON begun (until);
CREATE TABLE log (
  serial INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,         -- milliseconds and serial, in order
  type TEXT NOT NULL,
  about TEXT NOT NULL,
  severity INTEGER NOT NULL,
  action INTEGER NOT NULL,
  opened REAL NOT NULL,
  body BLOB NOT NULL,
  at REAL NOT NULL
);
CREATE TABLE silences (id TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;

-- One row per receiver; position: id of the last event it decided about.
CREATE TABLE receivers (
  name TEXT PRIMARY KEY,
  position TEXT NOT NULL DEFAULT '',
  disabled TEXT NOT NULL DEFAULT '',
  holder TEXT NOT NULL DEFAULT '',   -- of the lease
  held_until REAL NOT NULL DEFAULT 0
) WITHOUT ROWID;
-- Messages to be sent; those of a chain in the order of place.
CREATE TABLE messages (
  place INTEGER PRIMARY KEY,
  receiver TEXT NOT NULL,
  id TEXT NOT NULL,
  chain TEXT NOT NULL,
  body BLOB NOT NULL,
  UNIQUE (receiver, id)
);
CREATE INDEX messages_chain ON messages (receiver, chain, place);
-- When the first message of each chain is due.
CREATE TABLE chains (
  receiver TEXT NOT NULL,
  chain TEXT NOT NULL,
  due REAL NOT NULL,
  PRIMARY KEY (receiver, chain)
) WITHOUT ROWID;
CREATE INDEX chains_due ON chains (receiver, due, chain);
CREATE TABLE delivery_states (
  receiver TEXT NOT NULL,
  about TEXT NOT NULL,
  body BLOB NOT NULL,
  PRIMARY KEY (receiver, about)
) WITHOUT ROWID;
CREATE TABLE folded (
  place INTEGER PRIMARY KEY,
  receiver TEXT NOT NULL,
  body BLOB NOT NULL
);
CREATE INDEX folded_receiver ON folded (receiver, place);
CREATE TABLE dead (
  place INTEGER PRIMARY KEY,
  receiver TEXT NOT NULL,
  id TEXT NOT NULL,
  body BLOB NOT NULL,
  UNIQUE (receiver, id)
);
CREATE INDEX dead_receiver ON dead (receiver, place);
CREATE TABLE sent (
  place INTEGER PRIMARY KEY,
  receiver TEXT NOT NULL,
  body BLOB NOT NULL
);
CREATE INDEX sent_receiver ON sent (receiver, place);
