-- The orchestrator's own tables, as its own auto-migration makes them. Only those that are missing
-- are made, so that a new user needs no orchestrator, and one started later finds its own schema.
--
-- Each statement is announced by two lines: `-- step:` says in words what it does, `-- unless:` names
-- what shows that it has been done.

-- step: create table steps
-- unless: table steps
CREATE TABLE steps (
  id             CHAR(36) NOT NULL,
  name           LONGTEXT,
  description    LONGTEXT,
  creator_email  LONGTEXT,
  exception_type LONGTEXT,
  executor_type  LONGTEXT,
  http_method    LONGTEXT,
  http_url       LONGTEXT,
  parameters     TEXT,
  http_headers   TEXT,
  http_body      TEXT,
  shell_script   TEXT,
  shell_env      TEXT,
  timeout        BIGINT DEFAULT 30,
  retries        BIGINT DEFAULT 3,
  created_at     DATETIME(3) NULL,
  updated_at     DATETIME(3) NULL,
  PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- step: create table workflow_templates
-- unless: table workflow_templates
CREATE TABLE workflow_templates (
  id            CHAR(36) NOT NULL,
  name          LONGTEXT,
  description   LONGTEXT,
  creator_email LONGTEXT,
  is_active     TINYINT(1) DEFAULT 1,
  created_at    DATETIME(3) NULL,
  updated_at    DATETIME(3) NULL,
  PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- step: create table workflow_template_steps
-- unless: table workflow_template_steps
CREATE TABLE workflow_template_steps (
  id           CHAR(36) NOT NULL,
  template_id  CHAR(36),
  step_id      CHAR(36),
  dependencies TEXT,
  run_mode     VARCHAR(191) DEFAULT 'serial',
  on_failure   VARCHAR(191) DEFAULT 'abort',
  `order`      BIGINT,
  created_at   DATETIME(3) NULL,
  PRIMARY KEY (id),
  KEY idx_workflow_template_steps_template_id (template_id),
  KEY idx_workflow_template_steps_step_id (step_id),
  CONSTRAINT fk_workflow_template_steps_template FOREIGN KEY (template_id) REFERENCES workflow_templates (id),
  CONSTRAINT fk_workflow_template_steps_step FOREIGN KEY (step_id) REFERENCES steps (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- step: create table workflow_executions
-- unless: table workflow_executions
CREATE TABLE workflow_executions (
  id          CHAR(36) NOT NULL,
  template_id CHAR(36),
  status      VARCHAR(191) DEFAULT 'pending',
  started_at  DATETIME(3) NULL,
  finished_at DATETIME(3) NULL,
  duration    BIGINT,
  error       TEXT,
  created_by  LONGTEXT,
  created_at  DATETIME(3) NULL,
  updated_at  DATETIME(3) NULL,
  PRIMARY KEY (id),
  KEY idx_workflow_executions_template_id (template_id),
  CONSTRAINT fk_workflow_executions_template FOREIGN KEY (template_id) REFERENCES workflow_templates (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- step: create table workflow_step_executions
-- unless: table workflow_step_executions
CREATE TABLE workflow_step_executions (
  id           CHAR(36) NOT NULL,
  execution_id CHAR(36),
  step_id      CHAR(36),
  status       VARCHAR(191) DEFAULT 'pending',
  output       TEXT,
  error        TEXT,
  started_at   DATETIME(3) NULL,
  finished_at  DATETIME(3) NULL,
  duration     BIGINT,
  retry_count  BIGINT DEFAULT 0,
  created_at   DATETIME(3) NULL,
  updated_at   DATETIME(3) NULL,
  PRIMARY KEY (id),
  KEY idx_workflow_step_executions_execution_id (execution_id),
  KEY idx_workflow_step_executions_step_id (step_id),
  CONSTRAINT fk_workflow_step_executions_execution FOREIGN KEY (execution_id) REFERENCES workflow_executions (id),
  CONSTRAINT fk_workflow_step_executions_step FOREIGN KEY (step_id) REFERENCES steps (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;

-- step: create table distributed_locks
-- unless: table distributed_locks
CREATE TABLE distributed_locks (
  id         BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  lock_key   VARCHAR(255) NOT NULL,
  owner      VARCHAR(255) NOT NULL,
  expires_at DATETIME(3) NOT NULL,
  created_at DATETIME(3) NULL,
  updated_at DATETIME(3) NULL,
  PRIMARY KEY (id),
  UNIQUE KEY idx_distributed_locks_lock_key (lock_key)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
