-- Schema version 1: the orchestrator's own six tables and what the workers add to them.
--
-- The columns are those of the orchestrator on MySQL. Times are UTC texts of one form,
-- 'YYYY-MM-DD HH:MM:SS.SSS', which sorts as time does. Ids are its char(36), and printable ASCII, as
-- are owners: then one that was read finds its row again, whatever a stranger put into it, a byte that
-- is no character included. The worker's numbers are unsigned, as there: a start is written only over
-- the attempt that was read.
--
-- Each `-- step:` line begins a step that `migrate` names; it runs together with all others in one
-- transaction.

-- step: create table steps
CREATE TABLE steps (
  id             TEXT NOT NULL PRIMARY KEY
                 CHECK (length(id) BETWEEN 1 AND 36 AND length(id) = length(CAST(id AS BLOB))
                        AND id NOT GLOB '*[^ -~]*'),
  name           TEXT,
  description    TEXT,
  creator_email  TEXT,
  exception_type TEXT,
  executor_type  TEXT,
  http_method    TEXT,
  http_url       TEXT,
  parameters     TEXT,
  http_headers   TEXT,
  http_body      TEXT,
  shell_script   TEXT,
  shell_env      TEXT,
  timeout        INTEGER DEFAULT 30,
  retries        INTEGER DEFAULT 3,
  created_at     TEXT,
  updated_at     TEXT
) STRICT;

-- step: create table workflow_templates
CREATE TABLE workflow_templates (
  id            TEXT NOT NULL PRIMARY KEY
                CHECK (length(id) BETWEEN 1 AND 36 AND length(id) = length(CAST(id AS BLOB))
                       AND id NOT GLOB '*[^ -~]*'),
  name          TEXT,
  description   TEXT,
  creator_email TEXT,
  is_active     INTEGER DEFAULT 1,
  created_at    TEXT,
  updated_at    TEXT
) STRICT;

-- step: create table workflow_template_steps
CREATE TABLE workflow_template_steps (
  id           TEXT NOT NULL PRIMARY KEY
               CHECK (length(id) BETWEEN 1 AND 36 AND length(id) = length(CAST(id AS BLOB))
                      AND id NOT GLOB '*[^ -~]*'),
  template_id  TEXT REFERENCES workflow_templates(id),
  step_id      TEXT REFERENCES steps(id),
  dependencies TEXT,
  run_mode     TEXT DEFAULT 'serial',
  on_failure   TEXT DEFAULT 'abort',
  "order"      INTEGER,
  created_at   TEXT
) STRICT;
CREATE INDEX idx_workflow_template_steps_template_id ON workflow_template_steps(template_id);
CREATE INDEX idx_workflow_template_steps_step_id ON workflow_template_steps(step_id);

-- step: create table workflow_executions
CREATE TABLE workflow_executions (
  id             TEXT NOT NULL PRIMARY KEY
                 CHECK (length(id) BETWEEN 1 AND 36 AND length(id) = length(CAST(id AS BLOB))
                        AND id NOT GLOB '*[^ -~]*'),
  template_id    TEXT REFERENCES workflow_templates(id),
  status         TEXT DEFAULT 'pending',
  started_at     TEXT,
  finished_at    TEXT,
  duration       INTEGER,
  error          TEXT,
  created_by     TEXT,
  created_at     TEXT,
  updated_at     TEXT,
  ow_fence       INTEGER NOT NULL DEFAULT 0 CHECK (ow_fence >= 0),
  ow_owner       TEXT NOT NULL DEFAULT ''
                 CHECK (length(ow_owner) = length(CAST(ow_owner AS BLOB))
                        AND ow_owner NOT GLOB '*[^ -~]*'),
  ow_owner_uid   TEXT NOT NULL DEFAULT '',
  ow_claim       TEXT NOT NULL DEFAULT '',
  ow_claims      INTEGER NOT NULL DEFAULT 0 CHECK (ow_claims BETWEEN 0 AND 4294967295),
  ow_run         INTEGER NOT NULL DEFAULT 0 CHECK (ow_run BETWEEN 0 AND 4294967295),
  ow_plan        BLOB,
  ow_traceparent TEXT NOT NULL DEFAULT '',
  ow_not_before  TEXT,
  -- Due at once where no time can be read.
  ow_due         TEXT GENERATED ALWAYS AS (max(
                   coalesce(strftime('%Y-%m-%d %H:%M:%f', ow_not_before),
                            strftime('%Y-%m-%d %H:%M:%f', created_at),
                            '2000-01-01 00:00:00.000'),
                   '2000-01-01 00:00:00.000')) VIRTUAL
) STRICT;
CREATE INDEX idx_workflow_executions_template_id ON workflow_executions(template_id);

-- step: create index ow_poll
CREATE INDEX ow_poll ON workflow_executions(status, ow_due, id);

-- step: create index ow_held
CREATE INDEX ow_held ON workflow_executions(ow_owner, status) WHERE ow_owner > '';

-- step: create table workflow_step_executions
CREATE TABLE workflow_step_executions (
  id           TEXT NOT NULL PRIMARY KEY
               CHECK (length(id) BETWEEN 1 AND 36 AND length(id) = length(CAST(id AS BLOB))
                      AND id NOT GLOB '*[^ -~]*'),
  execution_id TEXT REFERENCES workflow_executions(id),
  step_id      TEXT REFERENCES steps(id),
  status       TEXT DEFAULT 'pending',
  output       TEXT,
  error        TEXT,
  started_at   TEXT,
  finished_at  TEXT,
  duration     INTEGER,
  retry_count  INTEGER DEFAULT 0,
  created_at   TEXT,
  updated_at   TEXT,
  ow_fence     INTEGER NOT NULL DEFAULT 0 CHECK (ow_fence >= 0),
  ow_attempt   INTEGER NOT NULL DEFAULT 0 CHECK (ow_attempt BETWEEN 0 AND 4294967295),
  ow_key_gen   INTEGER NOT NULL DEFAULT 0 CHECK (ow_key_gen BETWEEN 0 AND 4294967295)
) STRICT;
CREATE INDEX idx_workflow_step_executions_execution_id ON workflow_step_executions(execution_id);
CREATE INDEX idx_workflow_step_executions_step_id ON workflow_step_executions(step_id);

-- step: create table distributed_locks
CREATE TABLE distributed_locks (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  lock_key   TEXT NOT NULL UNIQUE,
  owner      TEXT NOT NULL,
  expires_at TEXT NOT NULL,
  created_at TEXT,
  updated_at TEXT,
  ow_fence   INTEGER NOT NULL DEFAULT 0 CHECK (ow_fence >= 0),
  ow_beat    INTEGER NOT NULL DEFAULT 0 CHECK (ow_beat >= 0)
) STRICT;
CREATE INDEX ow_expires ON distributed_locks(expires_at);

-- step: create table ow_plans
CREATE TABLE ow_plans (
  sha256     BLOB NOT NULL PRIMARY KEY,
  plan       TEXT NOT NULL,
  created_at TEXT NOT NULL
) STRICT;

-- step: create table ow_attempts
CREATE TABLE ow_attempts (
  execution_id      TEXT NOT NULL,
  step_execution_id TEXT NOT NULL,
  attempt           INTEGER NOT NULL,
  fence             INTEGER NOT NULL,
  owner             TEXT NOT NULL,
  started_at        TEXT NOT NULL,
  finished_at       TEXT,
  outcome           TEXT,
  cause             TEXT,
  PRIMARY KEY (step_execution_id, attempt)
) STRICT, WITHOUT ROWID;
CREATE INDEX ow_execution ON ow_attempts(execution_id);

-- step: create table ow_paused
CREATE TABLE ow_paused (
  template_id TEXT NOT NULL PRIMARY KEY,
  since       TEXT NOT NULL
) STRICT;

-- step: create table ow_primary
CREATE TABLE ow_primary (
  id       INTEGER PRIMARY KEY,
  identity TEXT NOT NULL,
  since    TEXT NOT NULL
) STRICT;
-- The file is its own primary: this identity goes wherever the file goes.
INSERT INTO ow_primary(id, identity, since)
VALUES (1, lower(hex(randomblob(16))), strftime('%Y-%m-%d %H:%M:%f', 'now', '-1 day'));

-- step: create table ow_meta
CREATE TABLE ow_meta (
  id                INTEGER PRIMARY KEY,
  version           INTEGER NOT NULL,
  oldest_reader     INTEGER NOT NULL,
  first_migrated_at TEXT NOT NULL,
  guard             INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO ow_meta(id, version, oldest_reader, first_migrated_at)
VALUES (1, 1, 1, strftime('%Y-%m-%d %H:%M:%f', 'now'));
