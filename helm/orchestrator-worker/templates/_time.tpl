{{/* Times, and what follows from them. */}}

{{/* A time such as 1m30s, in milliseconds. */}}
{{- define "orchestrator-worker.milliseconds" -}}
{{- $sum := 0 }}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 }}
{{- range regexFindAll "[0-9]+[a-z]+" . -1 }}
{{- $sum = add $sum (mul (regexFind "[0-9]+" . | atoi) (index $units (regexFind "[a-z]+" .))) }}
{{- end }}
{{- $sum }}
{{- end }}

{{/* The same in whole seconds, rounded up. */}}
{{- define "orchestrator-worker.seconds" -}}
{{ div (add (include "orchestrator-worker.milliseconds" . | int64) 999) 1000 }}
{{- end }}

{{/* What a pod has from the wish to end it until it is killed. */}}
{{- define "orchestrator-worker.gracePeriod" -}}
{{- $seconds := 0 }}
{{- range list .Values.drain.preStop .Values.config.drain_deadline .Values.drain.margin }}
{{- $seconds = add $seconds (include "orchestrator-worker.seconds" . | int64) }}
{{- end }}
{{- $seconds }}
{{- end }}

{{/* The port of a listening address. */}}
{{- define "orchestrator-worker.adminPort" -}}
{{ regexFind "[0-9]+$" .Values.config.admin.listen }}
{{- end }}

{{/* The most workers that there can be. */}}
{{- define "orchestrator-worker.mostReplicas" -}}
{{- if or .Values.autoscaling.hpa.enabled .Values.autoscaling.keda.enabled }}
{{- .Values.autoscaling.maxReplicas | int64 }}
{{- else }}
{{- .Values.replicas | int64 }}
{{- end }}
{{- end }}

{{/* Connections of one worker. */}}
{{- define "orchestrator-worker.connections" -}}
{{ add .Values.config.database.pool.lease .Values.config.database.pool.work }}
{{- end }}

{{/* Connections at worst: in a rollout every old worker may drain beside every new one. */}}
{{- define "orchestrator-worker.mostConnections" -}}
{{ mul 2 (include "orchestrator-worker.mostReplicas" . | int64) (include "orchestrator-worker.connections" . | int64) }}
{{- end }}
