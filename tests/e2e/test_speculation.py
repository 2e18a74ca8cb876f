"""Predictions, the report and the comparison, on the real server as its users meet them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI

TEXT = "".join(f"{name} = load('{name}.csv')\n" for name in ("orders", "clients", "stock", "bills"))
ASKED = f"Repeat this code exactly:\n```python\n{TEXT}```"


def report_of(server: str) -> dict[str, Any]:
    [report] = httpx.get(f"{server}/v1/speculation/report").json()["data"]
    return dict(report)


async def ask(client: AsyncOpenAI, **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": ASKED}]
    return await client.chat.completions.create(
        model="demo", messages=messages, temperature=0, max_tokens=60, **options
    )


async def test_a_right_prediction_is_accepted_and_a_wrong_one_changes_nothing(
    client: AsyncOpenAI,
) -> None:
    plain = await ask(client, extra_body={"speculative": {"enabled": False}})
    text = plain.choices[0].message.content
    right = await ask(client, prediction={"type": "content", "content": text})
    wrong = await ask(client, prediction={"type": "content", "content": "Once upon a time " * 20})
    assert [it.choices[0].message.content for it in (right, wrong)] == [text, text]
    details = right.usage.completion_tokens_details
    assert details.accepted_prediction_tokens > 20
    assert details.accepted_prediction_tokens > details.rejected_prediction_tokens
    assert wrong.usage.completion_tokens_details.accepted_prediction_tokens < 5
    none = plain.usage.completion_tokens_details
    assert (none.accepted_prediction_tokens, none.rejected_prediction_tokens) == (0, 0)


async def test_an_answer_is_drafted_from_under_its_own_salt_only(
    server: str, client: AsyncOpenAI
) -> None:
    def shared() -> int:
        return int(report_of(server)["drafters"]["shared_suffix"]["proposed_tokens"])

    async def seeded(salt: str) -> str:
        options = {"temperature": 1.5, "seed": 4, "max_tokens": 60}
        answer = await client.completions.create(
            model="demo", prompt="Seven words:", extra_body={"cache_salt": salt}, **options
        )
        return str(answer.choices[0].text)

    first, before = await seeded("one"), shared()
    assert await seeded("two") == first
    assert shared() == before
    assert await seeded("one") == first
    assert shared() > before


def test_the_comparison_finds_the_same_texts_and_tells_measured_times(
    server: str, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": ASKED}) + '\n{"prompt": "Name three colours."}\n')
    flags = ["--ab", "--url", server, "--prompts", str(prompts), "--max-tokens", "24", "--json"]
    command = [sys.executable, "-m", "mlxspec", "bench", *flags, "--rounds", "1"]
    told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert told["model"] == "demo"
    assert (told["verdict"]["pairs"], told["verdict"]["identical"]) == (2, 2)
    assert len(told["prompts"]) == 2
    assert told["verdict"]["seconds_on"] > 0
    ratio = told["verdict"]["seconds_off"] / told["verdict"]["seconds_on"]
    assert abs(told["verdict"]["speedup"] - ratio) < 1e-6
    table = subprocess.run([*command[:-3], "--rounds", "1"], capture_output=True, check=True)
    assert b"every text is the same" in table.stdout


async def test_the_report_adds_up(server: str, client: AsyncOpenAI) -> None:
    await ask(client)
    report = report_of(server)
    assert report["model"] == "demo"
    for kind in ("proposed_tokens", "accepted_tokens"):
        by_drafter = sum(it[kind] for it in report["drafters"].values())
        assert by_drafter == sum(it[kind] for it in report["by_position"]) > 0
    lengths = report["draft_lengths"].items()
    assert sum(int(length) * rows for length, rows in lengths) == sum(
        it["proposed_tokens"] for it in report["drafters"].values()
    )
    assert report["drafting_steps"]["tokens_per_row"] >= 1
    assert report["step_costs"][0]["ms"] > 0


async def test_drafts_are_as_short_as_the_client_wishes(client: AsyncOpenAI) -> None:
    free = await ask(client)
    short = await ask(client, extra_body={"speculative": {"num_speculative_tokens": 2}})
    assert short.choices[0].message.content == free.choices[0].message.content
    lengths = [it.metrics["speculative_decoding"]["num_spec_tokens"] for it in (free, short)]
    assert lengths[0] > 2 >= lengths[1] > 0
