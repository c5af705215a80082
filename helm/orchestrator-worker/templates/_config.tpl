{{/* The worker's configuration file. */}}

{{/* Takes root and component. */}}
{{- define "orchestrator-worker.config" -}}
{{- $settings := deepCopy .root.Values.config }}
{{- $_ := set $settings "state_dir" "/var/lib/orchestrator-worker" }}
{{- $database := include "orchestrator-worker.database" . | fromJson }}
{{- if eq $database.kind "parts" }}
{{- $url := include "orchestrator-worker.database.url" (dict "root" .root "user" $database.user) }}
{{- $_ := set $settings.database "url" $url }}
{{- $file := printf "%s/password" (include "orchestrator-worker.database.folder" .) }}
{{- $_ := set $settings.database "password_file" $file }}
{{- else if eq $database.kind "sqlite" }}
{{- $_ := set $settings.database "url" "sqlite:///data/orchestrator.db" }}
{{- end }}
{{- $names := $settings.shell.pass_env }}
{{- range .root.Values.stepEnvFrom }}
{{- $names = concat $names .keys }}
{{- end }}
{{- $_ := set $settings.shell "pass_env" (uniq $names) }}
{{- include "orchestrator-worker.settings" $settings }}
{{- end }}

{{/* Settings that say something: neither empty texts and lists nor 0. */}}
{{- define "orchestrator-worker.settings" -}}
{{- $lines := list }}
{{- range $key, $value := . }}
{{- if kindIs "map" $value }}
{{- with include "orchestrator-worker.settings" $value }}
{{- $lines = append $lines (printf "%s:\n%s" $key (indent 2 .)) }}
{{- end }}
{{- else if kindIs "float64" $value }}
{{- if $value }}
{{- $lines = append $lines (printf "%s: %d" $key (int64 $value)) }}
{{- end }}
{{- else if or (kindIs "bool" $value) $value }}
{{- $lines = append $lines (printf "%s: %s" $key (toRawJson $value)) }}
{{- end }}
{{- end }}
{{- join "\n" $lines }}
{{- end }}
