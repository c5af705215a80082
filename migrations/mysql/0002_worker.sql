-- What the worker adds to the orchestrator's tables, and its own. Each ALTER names its algorithm, so
-- that none copies a table silently; as one statement they would be refused (1846).

-- step: add the worker's columns to workflow_executions
-- unless: column workflow_executions.ow_fence
ALTER TABLE workflow_executions
  ADD COLUMN ow_fence       BIGINT UNSIGNED NOT NULL DEFAULT 0,
  ADD COLUMN ow_owner       VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
  ADD COLUMN ow_owner_uid   VARCHAR(64)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
  ADD COLUMN ow_claim       VARCHAR(32)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
  ADD COLUMN ow_claims      INT UNSIGNED NOT NULL DEFAULT 0,
  ADD COLUMN ow_run         INT UNSIGNED NOT NULL DEFAULT 0,
  ADD COLUMN ow_plan        BINARY(32) NULL,
  ADD COLUMN ow_traceparent VARCHAR(64)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
  ADD COLUMN ow_not_before  DATETIME(3) NULL,
  ALGORITHM=INSTANT;

-- Alone: MariaDB refuses it together with others.
-- step: add the due time to workflow_executions
-- unless: column workflow_executions.ow_due
ALTER TABLE workflow_executions
  ADD COLUMN ow_due DATETIME(3) GENERATED ALWAYS AS
    (GREATEST(COALESCE(ow_not_before, created_at, TIMESTAMP'2000-01-01 00:00:00'), TIMESTAMP'2000-01-01 00:00:00')) VIRTUAL,
  ALGORITHM=INSTANT;

-- What is due, and what is held.
-- step: add the keys ow_poll and ow_held to workflow_executions
-- unless: key workflow_executions.ow_poll
ALTER TABLE workflow_executions
  ADD KEY ow_poll (status, ow_due, id),
  ADD KEY ow_held (ow_owner, status),
  ALGORITHM=INPLACE, LOCK=NONE;

-- step: add the worker's columns to workflow_step_executions
-- unless: column workflow_step_executions.ow_fence
ALTER TABLE workflow_step_executions
  ADD COLUMN ow_fence   BIGINT UNSIGNED NOT NULL DEFAULT 0,
  ADD COLUMN ow_attempt INT UNSIGNED NOT NULL DEFAULT 0,
  ADD COLUMN ow_key_gen INT UNSIGNED NOT NULL DEFAULT 0,
  ALGORITHM=INSTANT;

-- A version of the orchestrator that has no foreign keys has no key here either, and keeps ids as
-- LONGTEXT: each look at an execution's steps would read all steps there are.
-- step: add the key ow_execution to workflow_step_executions
-- unless: lead workflow_step_executions.execution_id
ALTER TABLE workflow_step_executions
  ADD KEY ow_execution (execution_id(36)),
  ALGORITHM=INPLACE, LOCK=NONE;

-- step: add the worker's columns and the key ow_expires to distributed_locks
-- unless: column distributed_locks.ow_fence
ALTER TABLE distributed_locks
  ADD COLUMN ow_fence BIGINT UNSIGNED NOT NULL DEFAULT 0,
  ADD COLUMN ow_beat  BIGINT UNSIGNED NOT NULL DEFAULT 0,
  ADD KEY ow_expires (expires_at),
  ALGORITHM=INPLACE, LOCK=NONE;

-- step: create table ow_primary
-- unless: table ow_primary
CREATE TABLE ow_primary (
  id       TINYINT UNSIGNED PRIMARY KEY,
  identity VARCHAR(255) NOT NULL,
  since    DATETIME(6) NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- step: create table ow_plans
-- unless: table ow_plans
CREATE TABLE ow_plans (
  sha256     BINARY(32) PRIMARY KEY,
  plan       MEDIUMTEXT NOT NULL,
  created_at DATETIME(3) NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- step: create table ow_attempts
-- unless: table ow_attempts
CREATE TABLE ow_attempts (
  execution_id      CHAR(36) NOT NULL,
  step_execution_id CHAR(36) NOT NULL,
  attempt           INT UNSIGNED NOT NULL,
  fence             BIGINT UNSIGNED NOT NULL,
  owner             VARCHAR(255) NOT NULL,
  started_at        DATETIME(3) NOT NULL,
  finished_at       DATETIME(3) NULL,
  outcome           VARCHAR(32) NULL,
  cause             VARCHAR(255) NULL,
  PRIMARY KEY (step_execution_id, attempt),
  KEY ow_execution (execution_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- step: create table ow_paused
-- unless: table ow_paused
CREATE TABLE ow_paused (
  template_id CHAR(36) PRIMARY KEY,
  since       DATETIME(3) NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- Settled from the start: before this moment nobody can have claimed anything.
-- step: record the primary in ow_primary
-- unless: row ow_primary
INSERT INTO ow_primary (id, identity, since)
  VALUES (1, :identity, UTC_TIMESTAMP(6) - INTERVAL 1 DAY);

-- Last: a worker looks here first, and finds nothing before all the rest is there.
-- step: create table ow_meta
-- unless: table ow_meta
CREATE TABLE ow_meta (
  id                TINYINT UNSIGNED PRIMARY KEY,
  version           INT NOT NULL,
  oldest_reader     INT NOT NULL,
  first_migrated_at DATETIME(3) NOT NULL,
  guard             TINYINT(1) NOT NULL DEFAULT 0
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- step: record the schema's version in ow_meta
-- unless: row ow_meta
INSERT INTO ow_meta (id, version, oldest_reader, first_migrated_at, guard)
  VALUES (1, 1, 1, NOW(3), 0);
