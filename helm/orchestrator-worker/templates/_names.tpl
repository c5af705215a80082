{{/* Names and labels. */}}

{{- define "orchestrator-worker.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Cut so that what is appended to it still makes a label: 63 characters. */}}
{{- define "orchestrator-worker.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "orchestrator-worker.selectorLabels" -}}
app.kubernetes.io/name: {{ include "orchestrator-worker.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Of a part of the release: takes root and component. */}}
{{- define "orchestrator-worker.labels" -}}
{{ include "orchestrator-worker.selectorLabels" .root }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "orchestrator-worker.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "orchestrator-worker.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The workers' own labels, as a label selector. */}}
{{- define "orchestrator-worker.workers" -}}
app.kubernetes.io/name={{ include "orchestrator-worker.name" . }},app.kubernetes.io/instance={{ .Release.Name }},app.kubernetes.io/component=worker
{{- end }}

{{/* Whether workers ask the Kubernetes API for anything: a text that is empty if not. */}}
{{- define "orchestrator-worker.asksKubernetes" -}}
{{- with .Values.kubernetes }}
{{- if or .deadOwnerWatch .busyMarks .cordonWatch .rolloutAware .events }}true{{ end }}
{{- end }}
{{- end }}

{{/* Hooks run before the release's own account exists. */}}
{{- define "orchestrator-worker.migrate.serviceAccountName" -}}
{{- if and (eq .Values.migrations.mode "hook") .Values.serviceAccount.create -}}
{{ include "orchestrator-worker.migrate.name" . }}
{{- else -}}
{{ include "orchestrator-worker.serviceAccountName" . }}
{{- end }}
{{- end }}

{{- define "orchestrator-worker.migrate.name" -}}
{{ include "orchestrator-worker.fullname" . }}-migrate
{{- end }}

{{- define "orchestrator-worker.image" -}}
{{- $image := .Values.image -}}
{{ $image.repository }}
{{- if or $image.tag (not $image.digest) }}:{{ default .Chart.AppVersion $image.tag }}{{ end }}
{{- with $image.digest }}@{{ . }}{{ end }}
{{- end }}
