#!/usr/bin/env bash
# run started while another installs its plugin (seen on opencode 1.18.34). Does not hold: second answers or fails fast
# Needs bash, Python 3 and opencode on PATH; no key, no network. Exit 1: the bug shows; 0: it does not; 2: could not tell.
T=; end() { [ "$T" ] || return; for p in /proc/[0-9]*; do grep -qsaF "HOME=$T" "$p/environ" && kill -9 "${p#/proc/}"; done; rm -rf "$T"; } 2>/dev/null; trap end EXIT
T=$(mktemp -d) && mkdir -p "$T"/{tmp,project/.git/{objects,refs}} || exit 2; echo ref: refs/heads/main > "$T/project/.git/HEAD"
unset ${!OPENCODE_@} ${!XDG_@} ${!npm_config_@}; export T HOME="$T" TMPDIR="$T/tmp" OPENCODE_CONFIG="$T/opencode.json" NO_COLOR=1
export OPENCODE_DISABLE_{MODELS_FETCH,AUTOUPDATE,LSP_DOWNLOAD}=1 {no_proxy,NO_PROXY}=127.0.0.1 {{http,https}_proxy,{HTTP,HTTPS}_PROXY}=http://127.0.0.1:9
python3 -u - <<'PY' || exit $(($? == 9 ? 1 : 2))
import os, sys, glob, json, pathlib, signal, socket, subprocess, time; T = os.environ["T"]
def run(*argv, stdin=subprocess.DEVNULL, **more):
    print("+", *argv); return subprocess.Popen(argv, cwd=T + "/project", stdin=stdin, env={**os.environ, **more})
def wait(ready, what, s=60):
    while not ready(): s -= 0.05; time.sleep(0.05) if s > 0 else sys.exit(f"did not get there: {what}")
tarpit = socket.create_server(("127.0.0.1", 0), backlog=99)  # an npm registry that accepts and never answers
config = {'autoupdate': False, 'share': 'disabled', 'permission': {'bash': 'allow', 'edit': 'allow'}}; os.environ["npm_config_registry"] = f"http://127.0.0.1:{tarpit.getsockname()[1]}/"
pathlib.Path(T, "opencode.json").write_text(json.dumps(config))
file = pathlib.Path(T, 'project/.opencode/plugin/quiet.js'); file.parent.mkdir(parents=True, exist_ok=True); file.write_text('export const Quiet = async () => ({})\n')
p_first = run('opencode', 'run', '-m', 'bogus/nope-1', 'hi')
wait(lambda: glob.glob(T + '/.local/state/opencode/locks/*.lock/meta.json'), 'first takes a lock directory')
p_second = run('opencode', 'run', '-m', 'bogus/nope-2', 'hi')
until = time.time() + 60
while p_second.poll() is None and time.time() < until: time.sleep(0.1)
bug = p_second.returncode is None; seen = "it still runs after 60 s" if bug else f"exit {p_second.returncode}"
if bug: used = lambda: sum(map(int, open(f"/proc/{p_second.pid}/schedstat").read().split()[:2])) / 1e9; before = used(); time.sleep(3)  # s of CPU that it had, or waited for
if bug and used() - before > 2.4: sys.exit("it works on: it may be slow, try again with less beside it")
if not bug and p_second.returncode < 0: sys.exit(f"p_second ended with a signal ({seen})")
print("the bug shows:" if bug else "the bug does not show:", repr(seen)[:300]); sys.exit(9 if bug else 0)
PY
