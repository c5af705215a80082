INSERT INTO steps (id, name, description, creator_email, exception_type, executor_type, http_method, http_url, parameters, http_headers, http_body, shell_script, shell_env, timeout, retries, created_at, updated_at)
VALUES ('11111111-0000-4000-8000-000000000001', 'fetch', '', 'ann@example.org', '', 'func', '', '', '{"func":"noop"}', '', '', '', '', 30, 3, NOW(3), NOW(3)),
  ('11111111-0000-4000-8000-000000000002', 'größe', 'ein Maß', 'ann@example.org', '', 'func', '', '', '{"func":"noop"}', '', '', '', '', 0, 0, NOW(3), NOW(3)),
  ('11111111-0000-4000-8000-000000000003', 'call', '', 'bob@example.org', 'x', 'http', 'POST', 'https://api.example/', '', '{"A":"b"}', '{"text":"🦀"}', '', '', 5, 1, NOW(3), NOW(3));
INSERT INTO workflow_templates (id, name, description, creator_email, is_active, created_at, updated_at)
VALUES ('22222222-0000-4000-8000-000000000001', 'nightly', '', 'ann@example.org', 1, NOW(3), NOW(3)),
  ('22222222-0000-4000-8000-000000000002', 'of old', '', 'bob@example.org', 0, NOW(3), NOW(3));
INSERT INTO workflow_template_steps (id, template_id, step_id, dependencies, run_mode, on_failure, `order`, created_at)
VALUES ('33333333-0000-4000-8000-000000000001', '22222222-0000-4000-8000-000000000001', '11111111-0000-4000-8000-000000000001', '[]', 'serial', 'abort', 1, NOW(3)),
  ('33333333-0000-4000-8000-000000000002', '22222222-0000-4000-8000-000000000001', '11111111-0000-4000-8000-000000000002', '["11111111-0000-4000-8000-000000000001"]', 'parallel', 'skip', 2, NOW(3)),
  ('33333333-0000-4000-8000-000000000003', '22222222-0000-4000-8000-000000000002', '11111111-0000-4000-8000-000000000003', '', 'serial', 'abort', 1, NOW(3));
INSERT INTO workflow_executions (id, template_id, status, started_at, finished_at, duration, error, created_by, created_at, updated_at)
VALUES ('44444444-0000-4000-8000-000000000001', '22222222-0000-4000-8000-000000000001', 'pending', NULL, NULL, 0, '', 'ann', NOW(3), NOW(3)),
  ('44444444-0000-4000-8000-000000000002', '22222222-0000-4000-8000-000000000001', 'running', NOW(3), NULL, 0, '', 'ann', NOW(3), NOW(3)),
  ('44444444-0000-4000-8000-000000000003', '22222222-0000-4000-8000-000000000002', 'failed', NOW(3), NOW(3), 17, 'HTTP 500: größer als 🦀', 'bob', NOW(3) - INTERVAL 400 DAY, NOW(3)),
  ('44444444-0000-4000-8000-000000000004', '22222222-0000-4000-8000-000000000002', 'pending', NULL, NULL, 0, '', '', NOW(3) - INTERVAL 400 DAY, NOW(3) - INTERVAL 400 DAY);
INSERT INTO workflow_step_executions (id, execution_id, step_id, status, output, error, started_at, finished_at, duration, retry_count, created_at, updated_at)
VALUES ('55555555-0000-4000-8000-000000000001', '44444444-0000-4000-8000-000000000001', '11111111-0000-4000-8000-000000000001', 'pending', '', '', NULL, NULL, 0, 0, NOW(3), NOW(3)),
  ('55555555-0000-4000-8000-000000000002', '44444444-0000-4000-8000-000000000001', '11111111-0000-4000-8000-000000000002', 'pending', '', '', NULL, NULL, 0, 0, NOW(3), NOW(3)),
  ('55555555-0000-4000-8000-000000000003', '44444444-0000-4000-8000-000000000002', '11111111-0000-4000-8000-000000000001', 'success', 'all\nis well', '', NOW(3), NOW(3), 3, 0, NOW(3), NOW(3)),
  ('55555555-0000-4000-8000-000000000004', '44444444-0000-4000-8000-000000000002', '11111111-0000-4000-8000-000000000002', 'running', '', '', NOW(3), NULL, 0, 0, NOW(3), NOW(3)),
  ('55555555-0000-4000-8000-000000000005', '44444444-0000-4000-8000-000000000003', '11111111-0000-4000-8000-000000000003', 'failed', '', 'HTTP 500: größer als 🦀', NOW(3), NOW(3), 9, 0, NOW(3) - INTERVAL 400 DAY, NOW(3));
INSERT INTO distributed_locks (lock_key, owner, expires_at, created_at, updated_at)
VALUES ('workflow_execution:44444444-0000-4000-8000-000000000002', 'orchestrator-7f9c-0a1b2c3d', NOW(3) + INTERVAL 10 MINUTE, NOW(3), NOW(3)),
  ('workflow_template:22222222-0000-4000-8000-000000000002', 'orchestrator-7f9c-0a1b2c3d', NOW(3) - INTERVAL 1 DAY, NOW(3), NOW(3));
