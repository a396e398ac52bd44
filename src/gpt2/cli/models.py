"""Commands for model files: ``export``, ``import``, ``package`` and ``serve``."""

import shlex
from pathlib import Path
from typing import Literal

import click

from gpt2.cli.options import device_options, device_params, model_option


@click.command(
    epilog="""\b
Examples:
  gpt2 export --model data/models/finetuned --to gguf --output export/model.gguf
  gpt2 export --model gpt2-xl --to gguf --output gpt2-xl.gguf --quantization q8_0
"""
)
@model_option
@click.option(
    "--to",
    type=click.Choice(["gguf"]),
    required=True,
    expose_value=False,
    help="File format.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="File to write.",
)
@click.option(
    "--quantization",
    type=click.Choice(["f16", "q8_0", "f32"]),
    default="f16",
    help="Type of the matrices; q8_0 takes half as much space as f16.",
)
@click.option(
    "--modelfile/--no-modelfile",
    default=True,
    help="Write a Modelfile for Ollama next to the output.",
)
def export(
    model_dir: Path,
    output: Path,
    quantization: Literal["f16", "q8_0", "f32"],
    modelfile: bool,
) -> None:
    """Export a model for llama.cpp and Ollama."""
    from gpt2.core import files
    from gpt2.inference import export
    from gpt2.model.config_file import read_config

    stop = export.export_gguf(model_dir, output, quantization)
    click.echo(f"wrote {output} ({output.stat().st_size / 1e6:,.1f} MB)", err=True)
    if modelfile:
        path = output.with_name("Modelfile")
        text = export.modelfile(
            output.name,
            context_length=read_config(model_dir / "config.json").context_length,
            alpaca=export.follows_alpaca(model_dir),
            stop=stop,
        )
        files.write_text(path, text)
        command = shlex.join(["ollama", "create", output.stem, "-f", str(path)])
        click.echo(f"wrote {path}. Now: {command}", err=True)


@click.command(
    name="import",
    epilog="""\b
Examples:
  gpt2 import --output models/nanogpt nanoGPT/out/ckpt.pt
  gpt2 import --output models/llmc llm.c/gpt2_124M_bf16.bin
  gpt2 import --output models/own --tokenizer data/tokenizer ckpt.pt
""",
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Model directory to create; it must not exist yet.",
)
@click.option(
    "--tokenizer",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory with the model's tokenizer. Without it, GPT-2's tokenizer is downloaded.",
)
@click.option(
    "--gelu",
    type=click.Choice(["exact", "tanh"]),
    default="exact",
    help="GELU in the model.py of nanoGPT: exact for nn.GELU(), tanh for new_gelu.",
)
def import_(
    checkpoint: Path, output: Path, tokenizer: Path | None, gelu: Literal["exact", "tanh"]
) -> None:
    """Convert a nanoGPT or llm.c checkpoint.

    The result is a model directory. It is verified: its logits are compared with logits computed
    directly from the checkpoint's tensors. No code in the checkpoint is executed.
    """
    from gpt2.inference.importing import directory
    from gpt2.inference.verification import PROMPT

    proof = directory.import_checkpoint(
        *(checkpoint, output, tokenizer),
        gelu="none" if gelu == "exact" else "tanh",
        cache=Path(".cache", "wheels"),
    )
    click.echo(
        f"wrote {output}: {proof.program}, {proof.parameters:,} parameters\n"
        f"its logits after {proof.n_tokens} tokens are those of the file's own tensors (largest "
        f"difference: {proof.difference:.1e} of the largest logit)\n"
        f"{PROMPT}{proof.continuation}",
        err=True,
    )


@click.command(
    epilog="""\b
Examples:
  gpt2 package --model data/models/finetuned --output export/mlflow
  mlflow models serve -m export/mlflow --env-manager local
"""
)
@model_option
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Directory to create; it must not exist yet.",
)
@device_options
def package(model_dir: Path, output: Path, device: str, dtype: str) -> None:
    """Package a model for `mlflow models serve`."""
    from gpt2.inference import serving

    serving.package(model_dir, output, device_params(device, dtype))
    command = shlex.join(["mlflow", "models", "serve", "-m", str(output), "--env-manager", "local"])
    click.echo(f"wrote {output}. Now: {command}", err=True)


@click.command(
    epilog="""\b
Examples:
  gpt2 serve --model data/models/finetuned
  gpt2 serve --model gpt2-medium --port 9000 --device cpu

\b
Request (instruction and input instead of prompt are formatted as in finetuning):
  curl http://127.0.0.1:8000/invocations -H "Content-Type: application/json" -d \\
    '{"dataframe_records": [{"prompt": "def numpy."}], "params": {"max_new_tokens": 20}}'
"""
)
@model_option
@click.option(
    "--host",
    default="127.0.0.1",
    help="Address to listen on. Requests need no password: whoever reaches it can use the model.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, help="Port; 0 takes any free port."
)
@device_options
def serve(model_dir: Path, host: str, port: int, device: str, dtype: str) -> None:
    """Serve a model over HTTP until Ctrl-C.

    The API is that of `mlflow models serve`. POST /invocations takes records with a prompt, or with
    an instruction and an optional input. The options of gpt2 generate can be given as params
    (max_new_tokens, temperature, stop: a list, ...). GET /ping reports whether the server is up.
    """
    from gpt2.inference import serving

    serving.serve(
        *(model_dir, host, port, device_params(device, dtype)),
        lambda address: click.echo(f"{model_dir} answers at {address}/invocations"),
    )
