#!/usr/bin/env python3
"""What the chart's values are held to, with nothing but Helm and Python's own library.

  tests/chart_values.py CHART README    (tests/chart calls it; `helm` has to be in PATH)

Each check is a function whose name is a promise; it raises Broken with the first thing that is not so.

Invariant: nothing outside of a temporary folder is written.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

CHART, README = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
SAMPLES = ["parts", "keda", "keda-url", "url", "sqlite"]


class Broken(Exception):
    """A promise that is not kept."""


def need(condition, *what):
    if not condition:
        raise Broken(" ".join(str(part) for part in what))


# --- Helm ------------------------------------------------------------------------------------


def helm(values=None, sample="url", more=()):
    """Renders the chart; what is printed, and what is said about an error."""
    command = ["helm", "template", "worker", CHART, "--namespace", "workflows", *more]
    if sample:
        command += ["--values", CHART / "ci" / f"{sample}-values.yaml"]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values or {}, file)
        file.flush()
        ran = subprocess.run(
            [*command, "--values", file.name], capture_output=True, text=True, check=False
        )
    return (ran.stdout, None) if ran.returncode == 0 else (None, ran.stderr)


def rendered(*arguments, **named):
    text, error = helm(*arguments, **named)
    need(error is None, error)
    return text


def sentences(error):
    """Those of the chart's own checks."""
    lines = [line for line in error.splitlines() if line.strip()]
    return [line for line in lines if not re.match(r"Error: |Use --debug flag", line)]


def all_values(sample=None):
    """The values that templates see: Helm prints them as JSON."""
    show = '{{ dict "apiVersion" "v1" "kind" "ConfigMap" "values" .Values | toJson }}'
    base = {"extraObjects": [show]}
    if not sample:
        base |= {"image": {"repository": "i"}, "database": {"existingSecret": "s"}}
    text = rendered(base, sample, more=["--show-only", "templates/extra.yaml"])
    values = json.loads(next(line for line in text.splitlines() if line.startswith("{")))["values"]
    values["extraObjects"] = []
    if not sample:
        values["image"]["repository"] = values["database"]["existingSecret"] = ""
    values.pop("global", None)
    return values


# --- paths -----------------------------------------------------------------------------------


def leaves(values, prefix=()):
    """Paths of all that is no group; an empty group is a leaf."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key)


def at(values, path):
    for key in path:
        values = (values or {}).get(key)
    return values


def only(path, value):
    for key in reversed(path):
        value = {key: value}
    return value


def schema():
    return json.loads((CHART / "values.schema.json").read_text())


def resolve(part, whole):
    while "$ref" in part:
        part = whole["definitions"][part["$ref"].rsplit("/", 1)[1]]
    return part


def schema_at(path, whole):
    """The part of the schema for a path; None below what is passed on to Kubernetes."""
    part = whole
    for key in path:
        part = resolve(part, whole)
        if "properties" not in part:
            return None
        need(key in part["properties"], ".".join(path), "is not in the schema")
        part = part["properties"][key]
    return resolve(part, whole)


# --- the promises ----------------------------------------------------------------------------

IMAGE = "registry.example/orchestrator-worker:0.1.0"
PARTS = {"host": "db", "name": "n", "user": "u", "existingSecret": "password"}
FILE = {"existingSecret": "", "sqlite": {"existingClaim": "c"}}
HPA = {"hpa": {"enabled": True}}
KEDA = {"keda": {"enabled": True}}

# Beyond the least values, and the one sentence that they earn.
CONTRADICTIONS = [
    ({"image": {"repository": ""}},
     "image.repository is not set, and no image of this version is published yet: build one in the "
     f"project's folder (docker build -t {IMAGE} .), push it (docker push {IMAGE}) or load it into the "
     f"nodes (kind load docker-image {IMAGE}), and add --set "
     "image.repository=registry.example/orchestrator-worker."),
    ({"database": {"existingSecret": ""}},
     "no database is named: put its URL into a Secret (kubectl create secret generic "
     "orchestrator-database --from-literal=url=mysql://USER:PASSWORD@HOST:3306/NAME) and add --set "
     "database.existingSecret=orchestrator-database."),
    ({"database": {"host": "db", "name": "n"}},
     "database.host is given without database.name or database.user: give all three, or a whole URL in "
     "database.existingSecret."),
    ({"database": {**PARTS, "password": "p"}},
     "database.password and database.existingSecret both give a password: leave one of them out."),
    ({"database": {**PARTS, "existingSecret": ""}},
     "database.host is given without a password: name the Secret that holds it in "
     "database.existingSecret."),
    ({"database": {"password": "p"}},
     "database.name, database.user or database.password is given without database.host: give that too, or "
     "a whole URL in database.existingSecret alone."),
    ({"replicas": 1, "database": {"sqlite": {"existingClaim": "c"}}},
     "database.sqlite.existingClaim names an SQLite file, and database.existingSecret, host, name, user or "
     "password a server: leave one of them out."),
    ({"replicas": 2, "database": FILE},
     "database.sqlite.existingClaim is for one worker, and there may be 2: set replicas to 1 without an "
     "autoscaler, or take a MySQL server."),
    ({"replicas": 1, "database": FILE, "autoscaling": {**HPA, "maxReplicas": 4}},
     "database.sqlite.existingClaim is for one worker, and there may be 4: set replicas to 1 without an "
     "autoscaler, or take a MySQL server."),
    ({"database": {"tls": {"existingSecret": "t", "certKey": "tls.crt"}}},
     "database.tls.certKey and database.tls.keyKey belong together: give both or neither."),
    ({"database": {"tls": {"existingSecret": "t"}}, "config": {"database": {"tls": "insecure"}}},
     "database.tls.existingSecret holds a CA, and config.database.tls is insecure, which looks at no "
     "certificate: leave one of them out."),
    ({"database": {"connectionBudget": 23}},
     "database.connectionBudget is 23, and 2 workers with 6 connections each need up to 24, twice their "
     "number while a rollout drains: allow for more, or set fewer workers or a smaller "
     "config.database.pool."),
    ({"migrations": {"mode": "none", "existingSecret": "m"}},
     "migrations.existingSecret, user or guard is given, and nothing would use it, because "
     "migrations.mode is none: leave it out, or choose a mode that makes a Job."),
    ({"replicas": 1, "database": FILE, "migrations": {"guard": True}},
     "migrations.existingSecret, user or guard is given, and nothing would use it, because an SQLite file "
     "is migrated by whoever opens it: leave it out, or choose a mode that makes a Job."),
    ({"migrations": {"user": "m", "existingSecret": "m"}},
     "migrations.user is given, and the user stands in the URL already: leave it out, or give "
     "database.host."),
    ({"database": PARTS, "migrations": {"user": "m"}},
     "migrations.user is given without the password of that user: name the Secret that holds it in "
     "migrations.existingSecret."),
    ({"config": {"lock": {"ttl": "61s"}}},
     "config.lock.ttl is 61s: it must be between 8s and 60s."),
    ({"config": {"lock": {"ttl": "7s", "renew_every": "1s"}}},
     "config.lock.ttl is 7s: it must be between 8s and 60s."),
    ({"config": {"lock": {"ttl": "10s", "renew_every": "3334ms"}}},
     "config.lock.renew_every is 3334ms, and a lease of 10s must be renewed three times within its time: "
     "make it a third of config.lock.ttl at most, and more than nothing."),
    ({"drain": {"margin": "9999ms"}},
     "drain.margin is 9999ms, and a worker needs 10s to end after its drain: make it 10s at least."),
    ({"config": {"step": {"backoff": {"base": "2m", "cap": "90s"}}}},
     "config.step.backoff.cap is 90s, and config.step.backoff.base 2m: the longest pause cannot be less "
     "than the first."),
    ({"config": {"claim": {"include": ["a", "b"], "exclude": ["b"]}}},
     "config.claim.include and config.claim.exclude both name the template b: take it out of one."),
    ({"extraEnv": [{"name": "ORCHESTRATOR_WORKER__DRAIN_DEADLINE", "value": "10m"}]},
     "extraEnv sets ORCHESTRATOR_WORKER__DRAIN_DEADLINE, which the chart decides: use its value in config, "
     "database, drain or otlp."),
    ({"stepEnvFrom": [{"secretRef": {"name": "s"}, "keys": ["DATABASE_URL"]}]},
     "stepEnvFrom names DATABASE_URL, which would set up the worker itself and not its steps: give that "
     "key another name."),
    ({"stepEnvFrom": [{"secretRef": {"name": "s"}, "keys": ["A"]}], "extraEnv": [{"name": "A"}]},
     "the variable A is set twice by stepEnvFrom and extraEnv: take it out of one."),
    ({"otlp": {"endpoint": "http://a:4318"}, "extraEnv": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT"}]},
     "otlp.endpoint and OTEL_EXPORTER_OTLP_ENDPOINT in extraEnv name two collectors: leave one of them "
     "out."),
    ({"podDisruptionBudget": {"minAvailable": 1}},
     "podDisruptionBudget takes maxUnavailable or minAvailable, one of them: leave the other empty."),
    ({"podDisruptionBudget": {"maxUnavailable": 0}},
     "podDisruptionBudget.maxUnavailable is 0, so that no node with a worker could ever be drained: allow "
     "for 1."),
    ({"podDisruptionBudget": {"maxUnavailable": None, "minAvailable": 2}},
     "podDisruptionBudget.minAvailable is 2, and there may be 2 workers, so that no node with a worker "
     "could ever be drained: make it less."),
    ({"rollout": {"maxSurge": 0, "maxUnavailable": "0%"}},
     "rollout.maxSurge and rollout.maxUnavailable are both 0, so that no rollout could begin: allow for "
     "one of them."),
    ({"database": {"host": ""}, "autoscaling": {**HPA, "keda": {"enabled": True, "existingSecret": "k"}}},
     "autoscaling.hpa and autoscaling.keda are both enabled, and would scale the same workers: leave one "
     "of them out."),
    ({"autoscaling": {**HPA, "minReplicas": 4, "maxReplicas": 3}},
     "autoscaling.minReplicas is 4 and autoscaling.maxReplicas 3: the fewest cannot be more than the "
     "most."),
    ({"autoscaling": {**HPA, "minReplicas": 0}},
     "autoscaling.minReplicas is 0, which a HorizontalPodAutoscaler does not take: set 1, or take KEDA."),
    ({"autoscaling": HPA, "resources": {"requests": {"cpu": None}}},
     "autoscaling.hpa scales by the share of the requested CPU, and resources.requests.cpu asks for none: "
     "set it, or give autoscaling.hpa.metrics."),
    ({"autoscaling": KEDA},
     "autoscaling.keda cannot read the URL of a worker: name a Secret with "
     "USER:PASSWORD@tcp(HOST:3306)/NAME in autoscaling.keda.existingSecret, or give database.host."),
    ({"autoscaling": KEDA, "database": PARTS},
     "autoscaling.keda would speak to database.host without TLS, and config.database.tls is "
     "verify_identity: name a Secret with USER:PASSWORD@tcp(HOST:3306)/NAME?tls=true in "
     "autoscaling.keda.existingSecret."),
    ({"autoscaling": {"keda": {"enabled": True, "existingSecret": "k", "triggers": [{"type": "cron"}]}}},
     "autoscaling.keda.existingSecret is given, and autoscaling.keda.triggers take the place of the "
     "trigger that would use it: leave one of them out."),
    ({"kubernetes": {"ownPodPolicy": True}},
     "kubernetes.ownPodPolicy is for what kubernetes.busyMarks lets workers patch, and that is off: leave it "
     "out, or turn both on."),
]

# What the schema refuses, and what Helm says of it.
REFUSED = [
    ({"replica": 3}, "additional properties 'replica' not allowed"),
    ({"config": {"lock": {"tll": "10s"}}}, "additional properties 'tll' not allowed"),
    ({"config": {"database": {"url": "mysql://u:p@h/n"}}}, "additional properties 'url' not allowed"),
    ({"config": {"drain_deadline": "60"}}, "does not match pattern"),
    ({"config": {"slots": 0}}, "minimum: got 0, want 1"),
    ({"config": {"admin": {"listen": "off"}}}, "does not match pattern"),
    ({"image": {"tag": 2}}, "got number, want string"),
    ({"migrations": {"mode": "init"}}, "value must be one of 'hook', 'job', 'none'"),
    ({"drain": {"terminationGracePeriodSeconds": 30}}, "additional properties"),
    ({"stepEnvFrom": [{"secretRef": {"name": "s"}}]}, "missing property 'keys'"),
]

# Another value where one cannot be made up from the usual one; a sample for what is empty.
OTHERS = {
    "affinity": {"podAffinity": {}},
    "autoscaling.hpa.metrics": [{"type": "Pods"}],
    "autoscaling.keda.triggers": [{"type": "cron", "metadata": {}}],
    "database.connectionBudget": 1,
    "database.sqlite.existingClaim": "other",
    "dnsConfig": {"nameservers": ["10.0.0.53"]},
    "extraEnv": [{"name": "OTHER"}],
    "extraObjects": [{"kind": "Other"}],
    "extraVolumeMounts": [{"name": "other", "mountPath": "/other"}],
    "extraVolumes": [{"name": "other"}],
    "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["other"]}],
    "imagePullSecrets": [{"name": "other"}],
    "networkPolicy.databaseTo": [{"podSelector": {}}],
    "networkPolicy.dnsTo": [{"podSelector": {}}],
    "networkPolicy.egress": [{"to": []}],
    "networkPolicy.metricsFrom": [{"podSelector": {}}],
    "networkPolicy.apiTo": [{"podSelector": {}}],
    "networkPolicy.otlpTo": [{"podSelector": {}}],
    "podMonitor.metricRelabelings": [{"action": "drop"}],
    "securityContext.capabilities.drop": ["NET_RAW"],
    "stepEnvFrom": [{"secretRef": {"name": "other"}, "keys": ["OTHER"]}],
    "tolerations": [{"operator": "Exists"}],
    "topologySpread": [{"maxSkew": 2, "topologyKey": "k", "whenUnsatisfiable": "DoNotSchedule"}],
}
TEXTS = ["other", "7s", "9MiB", "9Gi", "+01:00", "[::]:9500", "33%", "sha256:" + "a" * 64, "http://other:1"]

# The chart decides these itself; the worker's README has them.
NOT_IN_THE_CHART = {
    "name",
    "state_dir",
    "database.url",
    "database.password_file",
    "pod.termination_grace_period",
    "pod.pre_stop",
    "pod.disruption_budget",
    "pod.dead_owner_watch",
    "pod.busy_marks",
    "pod.cordon_watch",
    "pod.rollout_aware",
    "pod.events",
}
# What the README says in words.
WORDS = {"none", "all", "kept for good", "free slots, at most 50", "info, others warn"}


def contradicting_values_fail_with_one_sentence_each():
    for values, sentence in CONTRADICTIONS:
        text, error = helm(values)
        need(text is None, "this is rendered:", json.dumps(values))
        need(sentences(error) == [sentence], json.dumps(values), "fails with", error)
        need(sentence.endswith(".") and "\n" not in sentence, "this is no sentence:", sentence)
    return f"{len(CONTRADICTIONS)} sets"


def every_sentence_of_the_checks_is_in_the_table():
    checks = (CHART / "templates" / "_checks.tpl").read_text()
    kinds = re.findall(r'(?:list \$?\.wrong|\$say := printf) "([^"]+)"', checks)
    need(kinds, "there are no checks")
    told = [sentence for _, sentence in CONTRADICTIONS]
    for kind in kinds:
        pattern = re.escape(kind)
        pattern = re.sub(r"%[sd]", lambda _: ".*", pattern)
        need(any(re.fullmatch(pattern, sentence) for sentence in told), "no set earns:", kind)
    return f"{len(kinds)} sentences"


def several_contradictions_are_told_at_once():
    _, error = helm({"image": {"repository": ""}, "database": {"existingSecret": ""}})
    need(len(sentences(error)) == 2, error)


def what_is_not_in_the_schema_is_refused():
    for values, said in REFUSED:
        text, error = helm(values)
        need(text is None, "this is rendered:", json.dumps(values))
        need(said in error, json.dumps(values), "fails with", error)
    return f"{len(REFUSED)} sets"


def the_schema_is_closed_at_every_level():
    def walk(part, where):
        if not isinstance(part, dict):
            return
        kinds = part.get("type", [])
        is_object = kinds == "object" or "object" in kinds
        if is_object and part.get("$comment", "").startswith("as "):
            need("properties" not in part, where, "is passed on and has properties")
        elif is_object:
            more = part.get("additionalProperties")
            need(more is False or more == {"type": "string"}, where, "is open")
        for name, inner in (part.get("properties", {}) | part.get("definitions", {})).items():
            walk(inner, f"{where}.{name}")
        walk(part.get("items"), f"{where}[]")

    walk(schema(), "values")


def schema_and_values_have_the_same_keys():
    whole, values = schema(), all_values()
    for path in leaves(values):
        schema_at(path, whole)

    def walk(part, where, there):
        part = resolve(part, whole)
        for name, inner in part.get("properties", {}).items():
            if (where, name) == ((), "global"):
                continue
            path = ".".join((*where, name))
            # Kinds of amounts, of affinity and of DNS settings may be left out.
            if where[:1] in {("resources",), ("affinity",), ("dnsConfig",)}:
                continue
            need(name in there, path, "is in the schema, and values.yaml has none")
            if isinstance(there[name], dict):
                walk(inner, (*where, name), there[name])

    walk(whole, (), values)


def every_value_is_documented():
    rows = re.findall(r"^\| `([^`]+)` \| .* \| (.+) \|$", (CHART / "README.md").read_text(), re.M)
    told = {tuple(name.split(".")) for name, text in rows if text.strip()}
    for path in leaves(all_values()):
        covered = any(path[:length] in told for length in range(1, len(path) + 1))
        need(covered, ".".join(path), "has no comment that begins with `# -- `")
    return f"{len(told)} rows"


def other(path, value, whole):
    """A value that the schema takes and that is not the one that there is."""
    name, part = ".".join(path), schema_at(path, whole) or {}
    if name in OTHERS:
        return OTHERS[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return int(value) + 1
    if "enum" in part:
        return next(word for word in part["enum"] if word != value)
    kinds = part.get("type", "string")
    if kinds == "array":
        return ["OTHER"]
    if kinds == "object":
        return {"other": "value"}
    if "integer" in kinds:
        return 1
    fits = re.compile(part.get("pattern", ""))
    return next(text for text in TEXTS if text != value and fits.search(text))


def every_value_makes_a_difference():
    whole, defaults = schema(), all_values()
    usual = {sample: rendered(sample=sample) for sample in SAMPLES}
    values = {sample: all_values(sample) for sample in SAMPLES}
    paths = list(leaves(defaults))

    def differs(path, sample):
        changed = only(path, other(path, at(values[sample], path), whole))
        text, error = helm(changed, sample)
        return ".".join(path) in error if text is None else text != usual[sample]

    for path in paths:
        need(any(differs(path, sample) for sample in SAMPLES), ".".join(path), "is not used")
    return f"{len(paths)} values"


def settings_of_the_worker():
    """By key, with their defaults, from the table in the README, which a test holds to the program."""
    text = README.read_text()
    rows = text.split("| setting | default |", 1)[1].splitlines()[2:]
    settings = {}
    for row in rows:
        if not row.startswith("|"):
            break
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        for cell, defaults in ((cells[0], cells[1]), (cells[3], cells[4])):
            names = re.findall(r"`([^`]+)`", cell.split(" (")[0])
            if not names:
                continue
            each = defaults.split(" / ")
            each = each if len(each) == len(names) else [defaults] * len(names)
            group = names[0].rpartition(".")[0]
            for name, default in zip(names, each):
                settings[group + name if name.startswith(".") else name] = default
    return settings


def the_workers_settings_are_those_of_the_chart_with_the_same_defaults():
    config = all_values()["config"]
    chart = {".".join(path): at(config, path) for path in leaves(config)}
    worker = settings_of_the_worker()
    need(set(worker) - set(chart) == NOT_IN_THE_CHART, set(worker) - set(chart), "are the worker's alone")
    need(set(chart) <= set(worker), set(chart) - set(worker), "are the chart's alone")
    for key, value in chart.items():
        told = worker[key]
        if key == "admin.listen":
            need(told == "127.0.0.1:9400 (a pod: 0.0.0.0)" and value == "0.0.0.0:9400", told, value)
        elif not (value or isinstance(value, bool)):
            need(told in WORDS, key, "is empty in the chart, and in the worker", told)
        else:
            shown = ", ".join(value) if isinstance(value, list) else json.dumps(value).strip('"')
            need(shown == told, key, "is", value, "and in the worker", told)
    return f"{len(chart)} settings"


def objects(text, kind):
    return [part for part in text.split("\n---\n") if f"\nkind: {kind}\n" in part]


def what_changes_the_pods_changes_what_is_immutable():
    def job(values):
        text = rendered({"migrations": {"mode": "job"}, **values})
        return re.search(r"\n  name: (\S+)", objects(text, "Job")[0])[1]

    need(job({}) == job({}), "the same values make another Job")
    need(job({"image": {"tag": "other"}}) != job({}), "another image makes no other Job")

    def pods(values):
        return re.search(r"checksum/config: (\S+)", objects(rendered(values), "Deployment")[0])[1]

    need(pods({"config": {"slots": 11}}) != pods({}), "other settings restart no worker")
    need(pods({"replicas": 3}) == pods({}), "another number of workers restarts all")


def main():
    checks = [
        contradicting_values_fail_with_one_sentence_each,
        every_sentence_of_the_checks_is_in_the_table,
        several_contradictions_are_told_at_once,
        what_is_not_in_the_schema_is_refused,
        the_schema_is_closed_at_every_level,
        schema_and_values_have_the_same_keys,
        every_value_is_documented,
        the_workers_settings_are_those_of_the_chart_with_the_same_defaults,
        what_changes_the_pods_changes_what_is_immutable,
        every_value_makes_a_difference,
    ]
    broken = 0
    for check in checks:
        try:
            note = check()
            print(f"ok      {check.__name__}" + (f" ({note})" if note else ""), flush=True)
        except Broken as error:
            broken += 1
            print(f"BROKEN  {check.__name__}: {error}", flush=True)
    sys.exit(1 if broken else 0)


main()
