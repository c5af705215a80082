{{/* How workers and migrator reach the database. */}}

{{/* parts: an address here and a password in a file; url: a Secret with a URL; sqlite: a file. */}}
{{- define "orchestrator-worker.database.kind" -}}
{{- if .Values.database.sqlite.existingClaim -}}
sqlite
{{- else if .Values.database.host -}}
parts
{{- else -}}
url
{{- end }}
{{- end }}

{{/* Takes root and component (worker or migrate); JSON with kind, secret, key and, for parts, user. */}}
{{- define "orchestrator-worker.database" -}}
{{- $root := .root }}
{{- $database := $root.Values.database }}
{{- $migrations := $root.Values.migrations }}
{{- $kind := include "orchestrator-worker.database.kind" $root }}
{{- $found := dict "kind" $kind "secret" $database.existingSecret "user" $database.user }}
{{- $_ := set $found "key" (ternary $database.urlKey $database.passwordKey (eq $kind "url")) }}
{{- if not $database.existingSecret }}
{{- $_ := set $found "key" "password" }}
{{- $_ := set $found "secret" (include "orchestrator-worker.fullname" $root) }}
{{- end }}
{{- if eq .component "migrate" }}
{{- if $migrations.existingSecret }}
{{- $_ := set $found "secret" $migrations.existingSecret }}
{{- $_ := set $found "key" (ternary $migrations.urlKey $migrations.passwordKey (eq $kind "url")) }}
{{- $_ := set $found "user" (default $database.user $migrations.user) }}
{{- else if and (not $database.existingSecret) (eq $migrations.mode "hook") }}
{{- $_ := set $found "secret" (include "orchestrator-worker.migrate.name" $root) }}
{{- end }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{- define "orchestrator-worker.database.folder" -}}
/run/secrets/orchestrator-worker/database
{{- end }}

{{- define "orchestrator-worker.database.tlsFolder" -}}
/run/secrets/orchestrator-worker/database-tls
{{- end }}

{{/* A URL without a password: takes root and user. */}}
{{- define "orchestrator-worker.database.url" -}}
{{- $database := .root.Values.database }}
{{- $host := $database.host }}
{{- if contains ":" $host }}{{ $host = printf "[%s]" $host }}{{ end }}
{{- $escape := .root.Values.database.name | urlquery | replace "+" "%20" -}}
mysql://{{ .user | urlquery | replace "+" "%20" }}@{{ $host }}:{{ $database.port | int64 }}/{{ $escape }}
{{- if $database.tls.existingSecret }}
{{- $folder := include "orchestrator-worker.database.tlsFolder" . -}}
?ssl-ca={{ $folder }}/{{ $database.tls.caKey }}
{{- if $database.tls.certKey -}}
&ssl-cert={{ $folder }}/{{ $database.tls.certKey }}&ssl-key={{ $folder }}/{{ $database.tls.keyKey }}
{{- end }}
{{- end }}
{{- end }}
