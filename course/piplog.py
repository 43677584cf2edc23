"""pip and uv made readable: run them, show one short line a package, and turn a failure into a sentence."""
import queue
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

HEARTBEAT_S = 10
CAUSES = (  # pattern in the output, sentence; certificates before the network, whose words their errors repeat
    (r"No space left on device|not enough space|quota exceeded|Errno 28|Errno 122",
     "the disk is full. Free a few GB and start again; what is already installed is kept"),
    (r"Permission denied|Errno 13|Access is denied|Read-only file system|Errno 30",
     "a file could not be written. Close other programs that use the course's .venv, check that its folder is yours, "
     "and start again"),
    (r"CERTIFICATE_VERIFY_FAILED|SSLError",
     "pip does not trust the network's certificate. Behind a company's proxy, set PIP_CERT to its certificate file "
     "and start again"),
    (r"NewConnectionError|NameResolutionError|name resolution|Failed to establish|Network is unreachable|ConnectTimeout"
     r"|ReadTimeout|Read timed out|ProxyError|Connection refused|Connection reset|Max retries",
     "the network cannot be reached, and {missing} not installed yet. Connect (behind a proxy, set HTTPS_PROXY) and "
     "start again; it goes on where it stopped, and once all is installed nothing needs the network"),
    (r"BadZipFile|DO NOT MATCH THE HASHES|invalid wheel|IncompleteRead|incomplete-download|Connection broken",
     "a download arrived damaged. Start again; it goes on where it stopped"),
    (r"No matching distribution found for",
     "{missing} not offered for this Python and platform. Try Python 3.12 from python.org, or use the course in "
     "Google Colab"),
)


def run(command: list[str], variables: dict[str, str], log: Path) -> tuple[int, str]:
    """Run pip or uv, print condensed progress, append everything to `log`; returns (exit status, output)."""
    process = subprocess.Popen(
        command, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, encoding="utf-8", errors="replace",
    )
    old_handler = signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends this program ends pip, too
    lines: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True)
    reader.start()
    output, started, shown = [], time.monotonic(), time.monotonic()
    try:
        while (line := _next_line(lines)) is not None:
            output.append(line)
            short = condense(line)
            if not short and time.monotonic() - shown > HEARTBEAT_S:
                short = f"... still at work after {time.monotonic() - started:.0f} s"
            if short:
                print("  " + short, flush=True)
                shown = time.monotonic()
        return process.wait(), "".join(output)
    finally:
        signal.signal(signal.SIGTERM, old_handler)
        process.kill()
        process.wait()
        reader.join(timeout=5)  # a grandchild may still hold the pipe
        with log.open("a", encoding="utf-8") as file:
            file.write(" ".join(command) + "\n" + "".join(output))


def condense(line: str) -> str | None:
    """One line of pip's or uv's output as a learner wants to see it, or None: small and cached files go unnamed."""
    line = line.strip()
    if match := re.match(r"Downloading (\S+?)(?:-(?:py|cp)\d\S*\.whl|\.tar\.gz)? \(([\d.]+ ?[MG]i?B)\)", line):
        return f"downloading {match[1]} ({match[2]})"
    if line.startswith("Installing collected packages:"):
        count = line.count(",") + 1
        return "installing 1 package" if count == 1 else f"installing {count} packages; this takes a minute or two"
    return None


def explain(output: str, log: Path | None = None) -> str:
    """A sentence for the output of a failed installation, of which `log` holds the whole."""
    absent = re.findall(r"No matching distribution found for ([\w.-]+)", output)
    words = f"{absent[0]} is" if absent else "some packages are"
    for pattern, sentence in CAUSES:
        if re.search(pattern, output):
            return sentence.format(missing=words) + "." + (f" (Details: {log})" if log else "")
    last = [line for line in output.splitlines() if line.strip()][-1:] or ["no output"]
    details = f" (All of it: {log}.)" if log else ""
    return f"installing failed: {last[0].strip()}{details} Start again; it goes on where it stopped."


def _pump(stream, lines: queue.Queue) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _next_line(lines: queue.Queue) -> str | None:
    """The next line, or an empty one when the process has been silent for a while."""
    try:
        return lines.get(timeout=HEARTBEAT_S)
    except queue.Empty:
        return ""
