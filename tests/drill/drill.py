#!/usr/bin/env python3
"""Makes each alert fire and end against a real installation, with real Prometheus and Alertmanager.

    make drill                                  durations of rules divided by 20
    make drill ARGS='--time-scale 30 --only StreamGateDeadLetters,StreamGateNoWorker'

Starts a broker, each role as a process of its own, Prometheus over the rules of `streamgate config --rules --time-scale`, Alertmanager, and
receivers. What a laptop can cause is caused: a role is ended, the broker is frozen, a job has no worker. Everything else comes from a
stand-in page that Prometheus scrapes, with the series of `workers/monitor/alerts/tests/rules/cases.toml`; the monitor's own evaluator does
not see that page, so that it has to agree on the real causes alone. Prints a table, and fails when an alert did not fire or did not end.

Limits: what ends only with a window of six hours or three days is not waited for.
"""

import argparse
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools/bin"
PROGRAM = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug/streamgate"
ROLES = ["ingress", "upload", "index", "audit", "keeper", "monitor"]
# Alerts by what causes them for real.
CAUSES = {
    "StreamGateWatchdog": "none is needed",
    "StreamGateRoleSilent": "index is ended",
    "StreamGateWorkStalled": "index is ended, a file is uploaded",
    "StreamGateAuditBehind": "audit is ended",
    "StreamGateNobodyDispatches": "keeper is ended",
    "StreamGateNobodyDispatchesTasks": "keeper is ended",
    "StreamGateNoWorker": "fetches are asked for, no worker of tasks runs",
    "StreamGateQueueNotServed": "fetches are asked for, no worker of tasks runs",
    "StreamGateMonitorMissing": "monitor is ended",
    "StreamGateBrokerDown": "the broker is frozen",
    "StreamGateMonitorStale": "the broker is frozen",
    "StreamGateWritesUnconfirmed": "the broker is frozen",
    "StreamGateNotReady": "the broker is frozen",
    "StreamGateStateUnread": "the broker is frozen",
    "StreamGateAvailabilityBurn": "requests while the broker is frozen",
}
# What the monitor can't say of itself, and what it says of others only once they report again.
NOT_BY_MONITOR = {"StreamGateMonitorMissing", "StreamGateNotReady", "StreamGateWritesUnconfirmed", "StreamGateStateUnread", "StreamGateAvailabilityBurn"}
# Never ends.
ENDLESS = {"StreamGateWatchdog"}
# Shorter than their own time: it ends an hour after the last report, or takes long by itself.
WAIT_S = 240


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


class Story:
    """When each alert fired and ended, by who said so."""

    def __init__(self):
        self.lock = threading.Lock()
        self.fired = {}
        self.ended = {}

    def note(self, who: str, body: dict):
        with self.lock:
            for alert in body["alerts"]:
                name = alert["labels"]["alertname"]
                if alert["labels"].get("window", "1h") not in ("1h", "3m"):
                    continue
                if alert["status"] == "firing":
                    self.fired.setdefault((who, name), time.monotonic())
                elif (who, name) in self.fired:
                    self.ended[(who, name)] = time.monotonic()

    def has(self, table: str, who: str, name: str) -> bool:
        with self.lock:
            return (who, name) in getattr(self, table)


class StandIn:
    """The series that make alerts fire, as a page of metrics: while all is well gauges are not there, and counters stand still. What stays
    quiet near a threshold is left to the tests, since it may be what makes another alert fire."""

    def __init__(self, cases, scale: int):
        self.scale, self.began = scale, time.monotonic()
        self.cases, self.state = cases, {case["alert"]: "quiet" for case in cases}
        self.values = {}
        self.lock = threading.Lock()

    def render(self) -> str:
        with self.lock:
            now = time.monotonic()
            elapsed = now - self.began
            self.began = now
            shown = {}
            for case in self.cases:
                is_now = self.state[case["alert"]] == "fires"
                for line in case["fires"]:
                    series, value = line.rsplit(" ", 1)
                    if not value.endswith("/m"):
                        if is_now:
                            shown[series] = value
                        continue
                    grown = float(value.split("+")[1].removesuffix("/m")) / 60 * self.scale * elapsed
                    self.values[series] = self.values.get(series, 0.0) + (grown if is_now else 0.0)
                    # What is beyond the limit is counted until its process begins anew.
                    if is_now or "overflow=" not in series:
                        shown[series] = self.values[series]
            return "".join(f"{series} {value}\n" for series, value in sorted(shown.items()))


class Drill:
    def __init__(self, args):
        self.scale, self.folder = args.time_scale, Path(tempfile.mkdtemp(prefix="streamgate-drill-"))
        self.processes, self.story = {}, Story()
        self.ports = {role: free_port() for role in ROLES}
        self.api, self.nats, self.prometheus, self.alertmanager = (free_port() for _ in range(4))
        cases = tomllib.loads((ROOT / "workers/monitor/alerts/tests/rules/cases.toml").read_text())["case"]
        one_each = {}
        for case in cases:
            one_each.setdefault(case["alert"], case)
        self.names = sorted(one_each) if not args.only else sorted(args.only.split(","))
        self.stand_in = StandIn([case for name, case in one_each.items() if name in self.names and name not in CAUSES], self.scale)
        self.server = self.serve()

    def serve(self):
        drill = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self, body: bytes, kind="text/plain"):
                self.send_response(200)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                self.answer(drill.stand_in.render().encode())

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                drill.story.note(self.path.strip("/"), body)
                self.answer(b"")

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    @property
    def own(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    def start(self, name: str, args, env=None):
        log = open(self.folder / f"{name}.log", "ab")
        self.processes[name] = subprocess.Popen([str(arg) for arg in args], stdout=log, stderr=log, env={**os.environ, **(env or {})}, cwd=self.folder)

    def stop(self, name: str):
        process = self.processes.pop(name)
        process.terminate()
        process.wait(30)

    def start_role(self, role: str):
        kind = [role] if role in ("ingress", "keeper") else ["worker", role]
        more = ["--listen", f"127.0.0.1:{self.api}"] if role == "ingress" else []
        self.start(role, [PROGRAM, "--config", self.folder / "settings.toml", *kind, *more, "--admin-listen", f"127.0.0.1:{self.ports[role]}"])

    def run(self, *args) -> str:
        command = [str(PROGRAM), "--config", str(self.folder / "settings.toml"), *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False)
        if done.returncode != 0:
            raise SystemExit(f"drill: {' '.join(command)}: {done.stderr}")
        return done.stdout

    def start_broker(self):
        env = dict(line.split("=", 1) for line in (self.folder / "keys/nats.env").read_text().splitlines() if "=" in line and not line.startswith("#"))
        env = {name.removeprefix("export "): value.strip("'\"") for name, value in env.items()}
        env |= {"NATS_NAME": "drill", "NATS_LISTEN": f"127.0.0.1:{self.nats}", "NATS_STORE": str(self.folder / "jetstream")}
        self.start("broker", [TOOLS / "nats-server", "--config", ROOT / "nats/node.conf"], env)
        self.until("the broker", lambda: socket.create_connection(("127.0.0.1", self.nats), 1).close() is None)

    def start_installation(self):
        (self.folder / "settings.toml").write_text("")
        self.run("nats", "keys", self.folder / "keys")
        (self.folder / "settings.toml").write_text(
            f'data_dir = "{self.folder}/data"\n[broker]\nurls = ["nats://127.0.0.1:{self.nats}"]\nseed_file = "{self.folder}/keys/seeds"\n'
            f'[ingress]\npublic_url = "http://127.0.0.1:{self.api}"\n[outbound]\nallow = ["127.0.0.0/8"]\n'
            f'[monitor]\npoll = "500ms"\npoll_timeout = "500ms"\n[monitor.alerts]\ntime_scale = {self.scale}\ngroup = "100ms"\n'
            f'webhooks = [{{ url = "http://{self.own}/monitor" }}]\n'
        )
        self.start_broker()
        self.run("nats", "apply")
        for role in ROLES:
            self.start_role(role)
        self.until("the gateway", lambda: self.ask("GET", "/readyz")[0] == 200)

    def start_prometheus(self):
        (self.folder / "rules.yml").write_text(self.run("config", "--rules", "--time-scale", self.scale))
        targets = [f"127.0.0.1:{port}" for port in self.ports.values()]
        # JSON is YAML.
        (self.folder / "prometheus.yml").write_text(json.dumps({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{self.alertmanager}"]}]}]},
            "scrape_configs": [
                {"job_name": "streamgate", "static_configs": [{"targets": targets}], "metric_relabel_configs": [
                    {"source_labels": ["exported_instance"], "regex": ".+", "action": "drop"}]},
                {"job_name": "stand-in", "static_configs": [{"targets": [self.own]}]},
            ],
        }))
        (self.folder / "alertmanager.yml").write_text(json.dumps({
            "route": {"receiver": "drill", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s", "repeat_interval": "1h"},
            "receivers": [{"name": "drill", "webhook_configs": [{"url": f"http://{self.own}/alertmanager", "send_resolved": True}]}],
        }))
        # The package's program reads its templates below /usr/share alone, where nothing is installed: it gets a /usr/share of its own.
        template = "/usr/share/prometheus/alertmanager"
        inside = f'mount -t tmpfs tmpfs /usr/share && mkdir -p {template} && cp "$0"/* {template} && exec "$@"'
        apart = ["unshare", "--map-root-user", "--mount", "sh", "-c", inside, ROOT / ".tools/alertmanager"]
        self.start("alertmanager", [*apart, TOOLS / "alertmanager", "--config.file", self.folder / "alertmanager.yml", "--storage.path", self.folder / "am",
                                    "--web.listen-address", f"127.0.0.1:{self.alertmanager}", "--cluster.listen-address="])
        self.start("prometheus", [TOOLS / "prometheus", "--config.file", self.folder / "prometheus.yml", "--storage.tsdb.path", self.folder / "tsdb",
                                  "--web.listen-address", f"127.0.0.1:{self.prometheus}", "--rules.alert.resend-delay=1s"])

    def ask(self, method: str, path: str, body=None, kind="application/json", timeout=5):
        key = (self.folder / "key").read_text() if (self.folder / "key").exists() else ""
        request = urllib.request.Request(f"http://127.0.0.1:{self.api}{path}", data=body, method=method)
        request.add_header("content-type", kind)
        if key:
            request.add_header("authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""

    def until(self, what: str, holds, limit_s: float = 60):
        began = time.monotonic()
        while time.monotonic() - began < limit_s:
            try:
                if holds():
                    return True
            except OSError:
                pass
            time.sleep(0.2)
        raise SystemExit(f"drill: {what} did not happen in {limit_s} s; logs: {self.folder}")

    def wait_for(self, table: str, wanted, limit_s: float):
        """Waits until all of them did, or until the time is over."""
        began = time.monotonic()
        while time.monotonic() - began < limit_s:
            if all(self.story.has(table, who, name) for who, name in wanted):
                return
            time.sleep(0.2)

    def of_both(self, names):
        names = [name for name in names if name in self.names]
        return [("alertmanager", name) for name in names] + [("monitor", name) for name in names if name not in NOT_BY_MONITOR]

    def say(self, text: str):
        print(f"drill: {text}", file=sys.stderr, flush=True)

    def perform(self):
        self.start_installation()
        shown = "first API key, shown only now: "
        self.until("the first key", lambda: shown in (self.folder / "ingress.log").read_text())
        (self.folder / "key").write_text((self.folder / "ingress.log").read_text().split(shown)[1].split()[0])
        self.start_prometheus()
        self.wait_for("fired", self.of_both(["StreamGateWatchdog"]), 60)
        time.sleep(10)
        if not self.story.has("fired", "alertmanager", "StreamGateWatchdog"):
            raise SystemExit(f"drill: Alertmanager says nothing; logs: {self.folder}")
        unexpected = sorted({name for _, name in self.story.fired} - {"StreamGateWatchdog"})
        if unexpected:
            self.say(f"fired without a cause: {', '.join(unexpected)}")
        self.begun = time.monotonic()
        with self.story.lock:
            for key in self.story.ended:
                self.story.fired.pop(key, None)
            self.story.ended.clear()
        with self.stand_in.lock:
            self.stand_in.state = dict.fromkeys(self.stand_in.state, "fires")
        self.say("the stand-in shows what is wrong; keeper, index and audit are ended")
        # A few parts are let into the queue without a worker; the others wait before it.
        for number in range(12):
            asked = json.dumps({"source_url": f"http://{self.own}/film{number}.mp4"}).encode()
            status, answer = self.ask("POST", "/v1/media", asked)
            if status != 202:
                self.say(f"a fetch was answered with {status}: {answer.decode()}")
        self.wait_for("fired", self.of_both(["StreamGateNoWorker", "StreamGateQueueNotServed"]), 60)
        for role in ("index", "audit"):
            self.stop(role)
        self.ask("PUT", "/v1/files/film.mp4", b"no film", "video/mp4")
        self.wait_for("fired", self.of_both(["StreamGateRoleSilent", "StreamGateWorkStalled", "StreamGateAuditBehind"]), 150)
        for role in ("index", "audit"):
            self.start_role(role)
        self.stop("keeper")
        self.wait_for("fired", self.of_both(["StreamGateNobodyDispatches", "StreamGateNobodyDispatchesTasks"]), 120)
        self.start_role("keeper")
        self.say("index, audit and keeper are back; the broker is frozen")
        frozen = [name for name, cause in CAUSES.items() if "frozen" in cause]
        self.processes["broker"].send_signal(signal.SIGSTOP)
        asking = threading.Event()

        def ask_on():
            while not asking.is_set():
                self.ask("GET", "/v1/media", timeout=60)
                time.sleep(0.1)

        threads = [threading.Thread(target=ask_on, daemon=True) for _ in range(8)]
        for thread in threads:
            thread.start()
        self.wait_for("fired", self.of_both(frozen), 120)
        self.processes["broker"].send_signal(signal.SIGCONT)
        self.say("the broker goes on")
        asking.set()
        self.until("the gateway", lambda: self.ask("GET", "/readyz")[0] == 200)
        began = time.monotonic()
        while time.monotonic() - began < 20:
            self.ask("GET", "/v1/media")
        self.wait_for("ended", self.of_both(frozen), 120)
        self.say("monitor is ended, until its absence is seen")
        standing = [("alertmanager", case["alert"]) for case in self.stand_in.cases]
        self.wait_for("fired", standing, WAIT_S)
        with self.stand_in.lock:
            self.stand_in.state = dict.fromkeys(self.stand_in.state, "quiet")
        self.start("tasks", [PROGRAM, "--config", self.folder / "settings.toml", "worker", "tasks"])
        self.wait_for("ended", self.of_both(set(CAUSES) - ENDLESS - {"StreamGateMonitorMissing"}), 90)
        self.stop("monitor")
        self.wait_for("fired", self.of_both(["StreamGateMonitorMissing"]), 60)
        self.start_role("monitor")
        self.wait_for("ended", standing + self.of_both(set(CAUSES) - ENDLESS), WAIT_S)

    def report(self) -> int:
        failures = 0
        print(f"{'ALERT':34} {'BY':13} {'FIRED':>8} {'ENDED':>8}  CAUSE")
        for name in self.names:
            for who in ("alertmanager", "monitor"):
                if who == "monitor" and (name not in CAUSES or name in NOT_BY_MONITOR):
                    continue
                fired, ended = self.story.fired.get((who, name)), self.story.ended.get((who, name))
                is_well = fired is not None and (ended is not None or name in ENDLESS)
                failures += not is_well
                shown = [f"{at - self.begun:.1f} s" if at is not None else "-" for at in (fired, ended)]
                cause = CAUSES.get(name, "stand-in page")
                print(f"{name:34} {who:13} {shown[0]:>8} {shown[1]:>8}  {cause}{'' if is_well else '   FAILED'}")
        print(f"{len(self.names)} alerts, {failures} failures, durations divided by {self.scale}")
        return failures

    def end(self):
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time-scale", type=int, default=20, help="by what durations of rules are divided")
    parser.add_argument("--only", help="names of alerts, with commas between them")
    parser.add_argument("--keep", action="store_true", help="leave the folder with logs")
    drill = Drill(parser.parse_args())
    try:
        drill.perform()
    finally:
        drill.end()
    failures = drill.report()
    if failures:
        print(f"logs: {drill.folder}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
