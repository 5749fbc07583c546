"""How a running process is asked for a profile of its next steps: by files in its run's folder.

``profile/rank-3.json`` with ``{"id": "1f3a", "steps": 5}`` asks process 3. It answers with
``profile/rank-3-1f3a.json.gz``, a trace as Perfetto and chrome://tracing read it, or with ``….txt``, which says why
there is none. The answer is there whole before the question goes.
"""


def question(rank: int) -> str:
    """The file that asks this process."""
    return f"profile/rank-{rank}.json"


def answers(rank: int, asked: str) -> tuple[str, str]:
    """Those of which one answers the question of that id: a trace, or why there is none."""
    return f"profile/rank-{rank}-{asked}.json.gz", f"profile/rank-{rank}-{asked}.txt"
