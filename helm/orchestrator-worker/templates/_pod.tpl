{{/* What all pods of the release have in common. Each takes root and component (worker, migrate or
doctor); the doctor sees what a worker sees. */}}

{{- define "orchestrator-worker.pod.labels" -}}
{{ include "orchestrator-worker.labels" . }}
{{- if eq .component "worker" }}
{{- with .root.Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Where a pod runs and as whom. */}}
{{- define "orchestrator-worker.pod.settings" -}}
{{- $values := .root.Values -}}
automountServiceAccountToken: {{ and (ne .component "migrate") (include "orchestrator-worker.asksKubernetes" .root | not | not) }}
enableServiceLinks: false
{{- with $values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml $values.podSecurityContext | nindent 2 }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "orchestrator-worker.container.settings" -}}
{{- $values := .root.Values -}}
image: {{ include "orchestrator-worker.image" .root | quote }}
imagePullPolicy: {{ $values.image.pullPolicy }}
securityContext:
  {{- toYaml $values.securityContext | nindent 2 }}
resources:
  {{- toYaml $values.resources | nindent 2 }}
{{- end }}

{{/* Who the process is, and how it finds the database. */}}
{{- define "orchestrator-worker.env" -}}
{{- $database := include "orchestrator-worker.database" . | fromJson -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: POD_UID
  valueFrom:
    fieldRef:
      fieldPath: metadata.uid
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
{{- if eq $database.kind "url" }}
- name: ORCHESTRATOR_WORKER__DATABASE__URL
  valueFrom:
    secretKeyRef:
      name: {{ $database.secret | quote }}
      key: {{ $database.key | quote }}
{{- end }}
{{- if ne .component "migrate" }}
# What a pod cannot read of itself: the worker, and its doctor, say so where they do not fit what it runs.
- name: ORCHESTRATOR_WORKER__POD__TERMINATION_GRACE_PERIOD
  value: {{ include "orchestrator-worker.gracePeriod" .root }}s
- name: ORCHESTRATOR_WORKER__POD__PRE_STOP
  value: {{ include "orchestrator-worker.seconds" .root.Values.drain.preStop }}s
- name: ORCHESTRATOR_WORKER__POD__DISRUPTION_BUDGET
  value: {{ .root.Values.podDisruptionBudget.enabled | quote }}
{{- if .root.Values.kubernetes.deadOwnerWatch }}
- name: ORCHESTRATOR_WORKER__POD__DEAD_OWNER_WATCH
  value: {{ include "orchestrator-worker.workers" .root }}
{{- end }}
{{- if .root.Values.kubernetes.busyMarks }}
- name: ORCHESTRATOR_WORKER__POD__BUSY_MARKS
  value: "true"
{{- end }}
{{- if .root.Values.kubernetes.cordonWatch }}
- name: ORCHESTRATOR_WORKER__POD__CORDON_WATCH
  value: "true"
{{- end }}
{{- if and (eq .component "worker") .root.Values.kubernetes.rolloutAware }}
- name: POD_TEMPLATE_HASH
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['pod-template-hash']
- name: ORCHESTRATOR_WORKER__POD__ROLLOUT_AWARE
  value: {{ include "orchestrator-worker.workers" .root }}
{{- end }}
{{- if .root.Values.kubernetes.events }}
- name: ORCHESTRATOR_WORKER__POD__EVENTS
  value: "true"
{{- end }}
{{- end }}
{{- with .root.Values.otlp.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "orchestrator-worker.volumeMounts" -}}
{{- $database := include "orchestrator-worker.database" . | fromJson -}}
- name: config
  mountPath: /etc/orchestrator-worker
  readOnly: true
- name: state
  mountPath: /var/lib/orchestrator-worker
- name: tmp
  mountPath: /tmp
{{- if eq $database.kind "parts" }}
- name: database
  mountPath: {{ include "orchestrator-worker.database.folder" . }}
  readOnly: true
{{- end }}
{{- if .root.Values.database.tls.existingSecret }}
- name: database-tls
  mountPath: {{ include "orchestrator-worker.database.tlsFolder" . }}
  readOnly: true
{{- end }}
{{- if eq $database.kind "sqlite" }}
- name: data
  mountPath: /data
{{- end }}
{{- end }}

{{- define "orchestrator-worker.volumes" -}}
{{- $values := .root.Values -}}
{{- $database := include "orchestrator-worker.database" . | fromJson -}}
- name: config
  configMap:
    {{- if eq .component "migrate" }}
    name: {{ include "orchestrator-worker.migrate.name" .root }}
    {{- else }}
    name: {{ include "orchestrator-worker.fullname" .root }}
    {{- end }}
- name: state
  emptyDir:
    sizeLimit: {{ $values.stateVolume.sizeLimit }}
- name: tmp
  emptyDir:
    sizeLimit: {{ $values.tmpVolume.sizeLimit }}
{{- if eq $database.kind "parts" }}
- name: database
  secret:
    secretName: {{ $database.secret | quote }}
    defaultMode: 0440
    items:
      - key: {{ $database.key | quote }}
        path: password
{{- end }}
{{- with $values.database.tls.existingSecret }}
- name: database-tls
  secret:
    secretName: {{ . | quote }}
    defaultMode: 0440
{{- end }}
{{- if eq $database.kind "sqlite" }}
- name: data
  persistentVolumeClaim:
    claimName: {{ $values.database.sqlite.existingClaim | quote }}
{{- end }}
{{- end }}

{{/* The port of the collector's URL. */}}
{{- define "orchestrator-worker.otlpPort" -}}
{{- $url := urlParse . }}
{{- regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (ternary "443" "80" (eq $url.scheme "https")) }}
{{- end }}
