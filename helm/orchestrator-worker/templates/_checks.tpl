{{/* Values that cannot be meant: each check adds one sentence to what is wrong. Takes root and wrong, a
dict whose list `sentences` grows. */}}

{{- define "orchestrator-worker.checks" -}}
{{- $wrong := dict "sentences" list }}
{{- $given := dict "root" . "values" .Values "wrong" $wrong }}
{{- include "orchestrator-worker.checks.image" $given }}
{{- include "orchestrator-worker.checks.database" $given }}
{{- include "orchestrator-worker.checks.migrations" $given }}
{{- include "orchestrator-worker.checks.config" $given }}
{{- include "orchestrator-worker.checks.variables" $given }}
{{- include "orchestrator-worker.checks.numbers" $given }}
{{- include "orchestrator-worker.checks.autoscaling" $given }}
{{- include "orchestrator-worker.checks.kubernetes" $given }}
{{- with $wrong.sentences }}
{{- fail (printf "\n\n%s\n" (join "\n" .)) }}
{{- end }}
{{- end }}

{{/* Takes wrong and a sentence. */}}
{{- define "orchestrator-worker.wrong" -}}
{{- $wrong := index . 0 }}
{{- $_ := set $wrong "sentences" (append $wrong.sentences (index . 1)) }}
{{- end }}

{{/* A value as text, and nothing for one that is not given; 0 is. */}}
{{- define "orchestrator-worker.given" -}}
{{- if not (kindIs "invalid" .) }}{{ . }}{{ end }}
{{- end }}

{{- define "orchestrator-worker.checks.image" -}}
{{- if not .values.image.repository }}
{{- $name := printf "registry.example/orchestrator-worker:%s" .root.Chart.AppVersion }}
{{- $say := printf "image.repository is not set, and no image of this version is published yet: build one in the project's folder (docker build -t %s .), push it (docker push %s) or load it into the nodes (kind load docker-image %s), and add --set image.repository=registry.example/orchestrator-worker." $name $name $name }}
{{- include "orchestrator-worker.wrong" (list .wrong $say) }}
{{- end }}
{{- end }}

{{- define "orchestrator-worker.checks.database" -}}
{{- $database := .values.database }}
{{- $parts := or $database.name $database.user $database.password }}
{{- if $database.sqlite.existingClaim }}
{{- if or $database.existingSecret $database.host $parts }}
{{- include "orchestrator-worker.wrong" (list .wrong "database.sqlite.existingClaim names an SQLite file, and database.existingSecret, host, name, user or password a server: leave one of them out.") }}
{{- end }}
{{- $most := include "orchestrator-worker.mostReplicas" .root }}
{{- if gt (int64 $most) 1 }}
{{- $say := printf "database.sqlite.existingClaim is for one worker, and there may be %s: set replicas to 1 without an autoscaler, or take a MySQL server." $most }}
{{- include "orchestrator-worker.wrong" (list .wrong $say) }}
{{- end }}
{{- else if $database.host }}
{{- if not (and $database.name $database.user) }}
{{- include "orchestrator-worker.wrong" (list .wrong "database.host is given without database.name or database.user: give all three, or a whole URL in database.existingSecret.") }}
{{- end }}
{{- if and $database.existingSecret $database.password }}
{{- include "orchestrator-worker.wrong" (list .wrong "database.password and database.existingSecret both give a password: leave one of them out.") }}
{{- else if not (or $database.existingSecret $database.password) }}
{{- include "orchestrator-worker.wrong" (list .wrong "database.host is given without a password: name the Secret that holds it in database.existingSecret.") }}
{{- end }}
{{- else if $parts }}
{{- include "orchestrator-worker.wrong" (list .wrong "database.name, database.user or database.password is given without database.host: give that too, or a whole URL in database.existingSecret alone.") }}
{{- else if not $database.existingSecret }}
{{- include "orchestrator-worker.wrong" (list .wrong "no database is named: put its URL into a Secret (kubectl create secret generic orchestrator-database --from-literal=url=mysql://USER:PASSWORD@HOST:3306/NAME) and add --set database.existingSecret=orchestrator-database.") }}
{{- end }}
{{- $tls := $database.tls }}
{{- if ne (empty $tls.certKey) (empty $tls.keyKey) }}
{{- include "orchestrator-worker.wrong" (list .wrong "database.tls.certKey and database.tls.keyKey belong together: give both or neither.") }}
{{- end }}
{{- if and $tls.existingSecret (eq .values.config.database.tls "insecure") (not $tls.certKey) }}
{{- include "orchestrator-worker.wrong" (list .wrong "database.tls.existingSecret holds a CA, and config.database.tls is insecure, which looks at no certificate: leave one of them out.") }}
{{- end }}
{{- end }}

{{- define "orchestrator-worker.checks.migrations" -}}
{{- $migrations := .values.migrations }}
{{- $sqlite := .values.database.sqlite.existingClaim }}
{{- if or $sqlite (eq $migrations.mode "none") }}
{{- if or $migrations.existingSecret $migrations.user $migrations.guard }}
{{- $why := ternary "an SQLite file is migrated by whoever opens it" "migrations.mode is none" (not (empty $sqlite)) }}
{{- $say := printf "migrations.existingSecret, user or guard is given, and nothing would use it, because %s: leave it out, or choose a mode that makes a Job." $why }}
{{- include "orchestrator-worker.wrong" (list .wrong $say) }}
{{- end }}
{{- else if and $migrations.user (not .values.database.host) }}
{{- include "orchestrator-worker.wrong" (list .wrong "migrations.user is given, and the user stands in the URL already: leave it out, or give database.host.") }}
{{- else if and $migrations.user (not $migrations.existingSecret) }}
{{- include "orchestrator-worker.wrong" (list .wrong "migrations.user is given without the password of that user: name the Secret that holds it in migrations.existingSecret.") }}
{{- end }}
{{- end }}

{{- define "orchestrator-worker.checks.config" -}}
{{- $config := .values.config }}
{{- $ttl := include "orchestrator-worker.milliseconds" $config.lock.ttl | int64 }}
{{- $renew := include "orchestrator-worker.milliseconds" $config.lock.renew_every | int64 }}
{{- if or (lt $ttl 8000) (gt $ttl 60000) }}
{{- $say := printf "config.lock.ttl is %s: it must be between 8s and 60s." $config.lock.ttl }}
{{- include "orchestrator-worker.wrong" (list .wrong $say) }}
{{- else if or (lt $renew 1) (gt (mul 3 $renew) $ttl) }}
{{- $say := printf "config.lock.renew_every is %s, and a lease of %s must be renewed three times within its time: make it a third of config.lock.ttl at most, and more than nothing." $config.lock.renew_every $config.lock.ttl }}
{{- include "orchestrator-worker.wrong" (list .wrong $say) }}
{{- end }}
{{- $margin := .values.drain.margin }}
{{- if lt (include "orchestrator-worker.milliseconds" $margin | int64) 10000 }}
{{- $say := printf "drain.margin is %s, and a worker needs 10s to end after its drain: make it 10s at least." $margin }}
{{- include "orchestrator-worker.wrong" (list .wrong $say) }}
{{- end }}
{{- $base := include "orchestrator-worker.milliseconds" $config.step.backoff.base | int64 }}
{{- $cap := include "orchestrator-worker.milliseconds" $config.step.backoff.cap | int64 }}
{{- if lt $cap $base }}
{{- $say := printf "config.step.backoff.cap is %s, and config.step.backoff.base %s: the longest pause cannot be less than the first." $config.step.backoff.cap $config.step.backoff.base }}
{{- include "orchestrator-worker.wrong" (list .wrong $say) }}
{{- end }}
{{- range $config.claim.include }}
{{- if has . $config.claim.exclude }}
{{- $say := printf "config.claim.include and config.claim.exclude both name the template %s: take it out of one." . }}
{{- include "orchestrator-worker.wrong" (list $.wrong $say) }}
{{- end }}
{{- end }}
{{- end }}

{{/* What would change the worker behind the chart's back. */}}
{{- define "orchestrator-worker.checks.variables" -}}
{{- $own := "^(ORCHESTRATOR_WORKER_.*|DATABASE_URL|DB_(HOST|PORT|USER|PASSWORD|NAME)|POD_(NAME|NAMESPACE|UID|TEMPLATE_HASH)|NODE_NAME|KUBERNETES_.*)$" }}
{{- range .values.extraEnv }}
{{- if regexMatch $own .name }}
{{- $say := printf "extraEnv sets %s, which the chart decides: use its value in config, database, drain or otlp." .name }}
{{- include "orchestrator-worker.wrong" (list $.wrong $say) }}
{{- end }}
{{- end }}
{{- $seen := list }}
{{- range .values.extraEnv }}{{ $seen = append $seen .name }}{{ end }}
{{- range .values.stepEnvFrom }}
{{- range .keys }}
{{- if regexMatch $own . }}
{{- $say := printf "stepEnvFrom names %s, which would set up the worker itself and not its steps: give that key another name." . }}
{{- include "orchestrator-worker.wrong" (list $.wrong $say) }}
{{- else if has . $seen }}
{{- $say := printf "the variable %s is set twice by stepEnvFrom and extraEnv: take it out of one." . }}
{{- include "orchestrator-worker.wrong" (list $.wrong $say) }}
{{- end }}
{{- $seen = append $seen . }}
{{- end }}
{{- end }}
{{- if and .values.otlp.endpoint (has "OTEL_EXPORTER_OTLP_ENDPOINT" $seen) }}
{{- include "orchestrator-worker.wrong" (list .wrong "otlp.endpoint and OTEL_EXPORTER_OTLP_ENDPOINT in extraEnv name two collectors: leave one of them out.") }}
{{- end }}
{{- end }}

{{- define "orchestrator-worker.checks.numbers" -}}
{{- $budget := .values.database.connectionBudget | int64 }}
{{- $worst := include "orchestrator-worker.mostConnections" .root | int64 }}
{{- if and $budget (gt $worst $budget) }}
{{- $say := printf "database.connectionBudget is %d, and %s workers with %s connections each need up to %d, twice their number while a rollout drains: allow for more, or set fewer workers or a smaller config.database.pool." $budget (include "orchestrator-worker.mostReplicas" .root) (include "orchestrator-worker.connections" .root) $worst }}
{{- include "orchestrator-worker.wrong" (list .wrong $say) }}
{{- end }}
{{- $pdb := .values.podDisruptionBudget }}
{{- if $pdb.enabled }}
{{- $most := include "orchestrator-worker.given" $pdb.maxUnavailable }}
{{- $least := include "orchestrator-worker.given" $pdb.minAvailable }}
{{- if eq (empty $most) (empty $least) }}
{{- include "orchestrator-worker.wrong" (list .wrong "podDisruptionBudget takes maxUnavailable or minAvailable, one of them: leave the other empty.") }}
{{- else if has $most (list "0" "0%") }}
{{- include "orchestrator-worker.wrong" (list .wrong "podDisruptionBudget.maxUnavailable is 0, so that no node with a worker could ever be drained: allow for 1.") }}
{{- else if regexMatch "^[0-9]+$" $least }}
{{- $fewest := .values.replicas | int64 }}
{{- if or .values.autoscaling.hpa.enabled .values.autoscaling.keda.enabled }}
{{- $fewest = .values.autoscaling.minReplicas | int64 }}
{{- end }}
{{- if ge (int64 $least) $fewest }}
{{- $say := printf "podDisruptionBudget.minAvailable is %s, and there may be %d workers, so that no node with a worker could ever be drained: make it less." $least $fewest }}
{{- include "orchestrator-worker.wrong" (list .wrong $say) }}
{{- end }}
{{- end }}
{{- end }}
{{- $none := list "0" "0%" }}
{{- if and (has (toString .values.rollout.maxSurge) $none) (has (toString .values.rollout.maxUnavailable) $none) }}
{{- include "orchestrator-worker.wrong" (list .wrong "rollout.maxSurge and rollout.maxUnavailable are both 0, so that no rollout could begin: allow for one of them.") }}
{{- end }}
{{- end }}

{{- define "orchestrator-worker.checks.autoscaling" -}}
{{- $autoscaling := .values.autoscaling }}
{{- $hpa := $autoscaling.hpa }}
{{- $keda := $autoscaling.keda }}
{{- if and $hpa.enabled $keda.enabled }}
{{- include "orchestrator-worker.wrong" (list .wrong "autoscaling.hpa and autoscaling.keda are both enabled, and would scale the same workers: leave one of them out.") }}
{{- end }}
{{- if or $hpa.enabled $keda.enabled }}
{{- $fewest := $autoscaling.minReplicas | int64 }}
{{- $most := $autoscaling.maxReplicas | int64 }}
{{- if gt $fewest $most }}
{{- $say := printf "autoscaling.minReplicas is %d and autoscaling.maxReplicas %d: the fewest cannot be more than the most." $fewest $most }}
{{- include "orchestrator-worker.wrong" (list .wrong $say) }}
{{- end }}
{{- if and $hpa.enabled (lt $fewest 1) }}
{{- include "orchestrator-worker.wrong" (list .wrong "autoscaling.minReplicas is 0, which a HorizontalPodAutoscaler does not take: set 1, or take KEDA.") }}
{{- end }}
{{- end }}
{{- $requests := default dict .values.resources.requests }}
{{- if and $hpa.enabled (not $hpa.metrics) (not $requests.cpu) }}
{{- include "orchestrator-worker.wrong" (list .wrong "autoscaling.hpa scales by the share of the requested CPU, and resources.requests.cpu asks for none: set it, or give autoscaling.hpa.metrics.") }}
{{- end }}
{{- if and $keda.enabled (not $keda.triggers) (not $keda.existingSecret) (not .values.database.host) }}
{{- include "orchestrator-worker.wrong" (list .wrong "autoscaling.keda cannot read the URL of a worker: name a Secret with USER:PASSWORD@tcp(HOST:3306)/NAME in autoscaling.keda.existingSecret, or give database.host.") }}
{{- end }}
{{- if and $keda.enabled (not $keda.triggers) (not $keda.existingSecret) .values.database.host (ne .values.config.database.tls "insecure") }}
{{- include "orchestrator-worker.wrong" (list .wrong "autoscaling.keda would speak to database.host without TLS, and config.database.tls is verify_identity: name a Secret with USER:PASSWORD@tcp(HOST:3306)/NAME?tls=true in autoscaling.keda.existingSecret.") }}
{{- end }}
{{- if and $keda.enabled $keda.triggers $keda.existingSecret }}
{{- include "orchestrator-worker.wrong" (list .wrong "autoscaling.keda.existingSecret is given, and autoscaling.keda.triggers take the place of the trigger that would use it: leave one of them out.") }}
{{- end }}
{{- end }}

{{- define "orchestrator-worker.checks.kubernetes" -}}
{{- if and .values.kubernetes.ownPodPolicy (not .values.kubernetes.busyMarks) }}
{{- include "orchestrator-worker.wrong" (list .wrong "kubernetes.ownPodPolicy is for what kubernetes.busyMarks lets workers patch, and that is off: leave it out, or turn both on.") }}
{{- end }}
{{- end }}
