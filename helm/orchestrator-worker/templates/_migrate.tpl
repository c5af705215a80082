{{/* The Job that migrates. */}}

{{- define "orchestrator-worker.migrate.before" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: "-10"
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{- define "orchestrator-worker.migrate.job" -}}
{{- $migrations := .root.Values.migrations -}}
backoffLimit: {{ $migrations.backoffLimit | int64 }}
activeDeadlineSeconds: {{ $migrations.activeDeadlineSeconds | int64 }}
ttlSecondsAfterFinished: {{ $migrations.ttlSecondsAfterFinished | int64 }}
template:
  metadata:
    labels:
      {{- include "orchestrator-worker.pod.labels" . | nindent 6 }}
    annotations:
      checksum/config: {{ include "orchestrator-worker.config" . | sha256sum }}
  spec:
    restartPolicy: Never
    serviceAccountName: {{ include "orchestrator-worker.migrate.serviceAccountName" .root | quote }}
    {{- include "orchestrator-worker.pod.settings" . | nindent 4 }}
    containers:
      - name: migrate
        {{- include "orchestrator-worker.container.settings" . | nindent 8 }}
        args:
          - migrate
          {{- if $migrations.guard }}
          - --guard
          {{- end }}
        env:
          {{- include "orchestrator-worker.env" . | nindent 10 }}
        volumeMounts:
          {{- include "orchestrator-worker.volumeMounts" . | nindent 10 }}
    volumes:
      {{- include "orchestrator-worker.volumes" . | nindent 6 }}
{{- end }}
