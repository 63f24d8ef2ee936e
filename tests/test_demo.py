"""The guided tour, line by line as it is promised."""

import subprocess
import sys
from pathlib import Path

from app.config import Settings
from tests.entry_points import ROOT, environment


def test_the_tour_prints_its_lines_in_order_and_leaves_nothing_behind(tmp_path: Path) -> None:
    hostile = environment(ENVIRONMENT="production", AGENT_MAX_STEPS="x", SESSIONS_TABLE="elsewhere")
    (tmp_path / ".env").write_text("LOG_LEVEL=nonsense\n")
    tour = subprocess.run(
        [sys.executable, ROOT / "demo.py"],
        cwd=tmp_path,
        env=hostile,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (tour.returncode, tour.stderr) == (0, "")
    assert tour.stdout.splitlines() == [
        "==== CONFIG comes from the environment ====",
        f"defaults: {Settings(_env_file=None).redacted()}",
        "prod without key, validate(): ['ANTHROPIC_API_KEY is required in production']",
        "custom env -> max_steps: 10 | log_level: DEBUG | key set: True (value never logged)",
        "",
        "==== PROBES: alive is not ready ====",
        "GET /healthz: 200 {'status': 'alive'}",
        "GET /readyz (warmed): 200",
        "GET /healthz while not ready: 200 (still alive)",
        "GET /readyz while not ready: 503 (keep traffic away)",
        "POST /chat while not ready: 503",
        "",
        "==== SESSIONS: apart from each other, at home on every replica ====",
        "r1: {'answer': 'You said: first', 'session_id': 'a'}",
        "r2: {'answer': 'You said: second', 'session_id': 'b'}",
        "independent (no memory bleed): True",
        "r3: {'answer': 'You said: third', 'session_id': 'a'} by a second app instance on the same store",
        "session a, as the second instance sees it: ['first', 'third']",
    ]
    assert [path.name for path in tmp_path.iterdir()] == [".env"]
