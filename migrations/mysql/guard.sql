CREATE TRIGGER ow_guard BEFORE UPDATE ON workflow_executions FOR EACH ROW
BEGIN
  -- Every write of a worker changes the fence or the owner, or leaves status and start alone.
  IF NEW.ow_fence = OLD.ow_fence AND NEW.ow_owner = OLD.ow_owner THEN
    IF NEW.status = 'running' AND (COALESCE(OLD.status, '') NOT IN ('pending', 'running')
        OR (OLD.status = 'running' AND NOT (NEW.started_at <=> OLD.started_at))) THEN
      SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 31001,
        MESSAGE_TEXT = 'orchestrator-worker: execution was already started';
    END IF;
    IF (OLD.ow_owner <> '' OR (OLD.ow_fence > 0 AND OLD.status = 'pending'))
        AND NEW.status IN ('success', 'failed', 'pending') AND NEW.status <> OLD.status THEN
      SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 31002,
        MESSAGE_TEXT = 'orchestrator-worker: execution is owned by a worker; writer holds no fence';
    END IF;
    IF OLD.ow_fence > 0 AND OLD.status IN ('success', 'failed', 'cancelled')
        AND NEW.status <> OLD.status THEN
      SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 31003,
        MESSAGE_TEXT = 'orchestrator-worker: execution has ended; retry it instead';
    END IF;
  END IF;
END
