"""What tests ask the demo model, and how they read the answers."""

from typing import Any

import httpx
from openai import AsyncOpenAI

FUNCTION = """def merge(a, b):
    result = []
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i] < b[j]:
            result.append(a[i])
            i += 1
        else:
            result.append(b[j])
            j += 1
    return result + a[i:] + b[j:]
"""
COPY = f"Repeat this code exactly:\n```python\n{FUNCTION}```"
QUESTIONS = [
    "What is the capital of France?",
    "Name three colours.",
    COPY,
    "Write one sentence about the sea.",
    "What is two plus two?",
    "Explain gravity in one sentence.",
    "Say hello in Spanish.",
    "List four animals.",
]
PLAIN = {"speculative": {"enabled": False}}


async def ask(client: AsyncOpenAI, question: str, **options: Any) -> Any:
    extra = {"temperature": 0, "max_tokens": 20, **options}
    return await client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": question}], **extra
    )


async def text_of(client: AsyncOpenAI, question: str, **options: Any) -> str:
    answer = await ask(client, question, **options)
    return str(answer.choices[0].message.content)


def metric(server: str, name: str) -> float:
    text = httpx.get(f"{server}/metrics").text
    line = next(line for line in text.splitlines() if line.startswith(f"mlxspec:{name} "))
    return float(line.split()[-1])
