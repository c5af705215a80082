{{/* What KEDA asks the database. */}}

{{/* How many executions are running or may be claimed now: neither put off, nor held back as backlog,
nor of templates that are paused or not for these workers. Those that run count, because an autoscaler
that only sees what waits takes busy workers away. */}}
{{- define "orchestrator-worker.keda.query" -}}
{{- $config := .Values.config }}
{{- $templates := "" }}
{{- with $config.claim.include }}
{{- $names := include "orchestrator-worker.keda.texts" . }}
{{- $templates = printf "%s AND template_id IN (SELECT id FROM workflow_templates WHERE name IN (%s))" $templates $names }}
{{- end }}
{{- with $config.claim.exclude }}
{{- $names := include "orchestrator-worker.keda.texts" . }}
{{- $templates = printf "%s AND template_id NOT IN (SELECT id FROM workflow_templates WHERE name IN (%s))" $templates $names }}
{{- end -}}
SELECT (SELECT COUNT(*) FROM workflow_executions WHERE status='running'{{ $templates }})
+ (SELECT COUNT(*) FROM workflow_executions WHERE status='pending'
AND ow_due <= CONVERT_TZ(UTC_TIMESTAMP(3), '+00:00', '{{ $config.database.time_offset }}')
{{- if eq $config.claim.backlog "hold" }}
AND NOT (ow_fence=0 AND ow_due > '2000-01-01' AND ow_due <
(SELECT first_migrated_at - INTERVAL 1 DAY FROM ow_meta WHERE id=1))
{{- end }}
AND NOT EXISTS (SELECT 1 FROM ow_paused WHERE ow_paused.template_id=workflow_executions.template_id){{ $templates }})
{{- end }}

{{/* Texts of SQL, with commas between them. */}}
{{- define "orchestrator-worker.keda.texts" -}}
{{- $texts := list }}
{{- range . }}
{{- $texts = append $texts (printf "'%s'" (. | replace "\\" "\\\\" | replace "'" "''")) }}
{{- end }}
{{- join ", " $texts }}
{{- end }}
