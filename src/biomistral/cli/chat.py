"""``biomistral chat``: talk to a model in the terminal, or serve it."""

import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from biomistral.cli.common import Device
from biomistral.errors import UserError


def chat_command(
    model: Annotated[str, typer.Argument(help="model folder, quantised or not")],
    adapter: Annotated[str | None, typer.Option("--adapter", help="LoRA adapter folder put on the model")] = None,
    system: Annotated[str, typer.Option("--system", help="what the model is told before everything")] = "",
    save: Annotated[Path | None, typer.Option("--save", help="file the conversation is kept in, and goes on from")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="longest answer, in tokens")] = 512,
    temperature: Annotated[float, typer.Option("--temperature", min=0, help="0: always the likeliest token")] = 0.7,
    top_p: Annotated[float, typer.Option("--top-p", min=1e-6, max=1, help="draw from the likeliest tokens of this share")] = 0.95,
    seed: Annotated[int, typer.Option("--seed", help="the same seed and words give the same answers")] = 0,
    serve: Annotated[bool, typer.Option("--serve", help="an OpenAI-compatible server instead (extra 'serve')")] = False,
    host: Annotated[str, typer.Option("--host", help="where the server listens: this machine alone")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="the server's port")] = 8000,
    name: Annotated[str, typer.Option("--name", help="what the server calls the model (default: the folder's name)")] = "",
    dtype: Annotated[Literal["auto", "float32", "bfloat16"], typer.Option("--dtype", help="type computed in")] = "auto",
    device: Device = "auto",
) -> None:
    """Talk to a model, or serve it (--serve) to anything that speaks OpenAI's protocol."""
    if serve and importlib.util.find_spec("fastapi") is None:
        raise UserError("--serve needs FastAPI and uvicorn; install them with: pip install 'biomistral[serve]'")
    from biomistral.assets import locate
    from biomistral.chat.conversation import Conversation
    from biomistral.chat.model import load

    conversation = Conversation.read(save) if save is not None and save.is_file() else Conversation()
    talker = load(locate(model), locate(adapter) if adapter else None, device, dtype, name)
    if serve:
        from biomistral.chat.server import serve as run_server

        print(f"{talker.name} at http://{host}:{port}/v1; Ctrl-C ends it", file=sys.stderr, flush=True)
        run_server(talker, host, port)
        return
    from biomistral.chat.terminal import NOTICE, Manner, Terminal, typed

    conversation.model, conversation.system = talker.name, system or conversation.system
    print(f"{talker.name}. {NOTICE}", file=sys.stderr, flush=True)
    try:
        Terminal(talker, conversation, Manner(max_tokens, temperature, top_p, seed), save, sys.stdout).run(typed())
    finally:
        talker.speaker.close()
