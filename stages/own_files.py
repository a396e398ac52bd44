"""Stage ``own-files``: links to a user's own files, through which DVC notices changes in them."""

from pathlib import Path

import click

from gpt2.core.yaml_files import load
from gpt2.data.own_links import OwnFiles, checked, link, own_data
from gpt2.data.sources.params import CorpusParams, InstructionsParams
from gpt2.evaluation.judge import judge_files
from gpt2.evaluation.judge.params import FileModel, JudgeParams, LlamaCppParams
from gpt2.inference.importing.public_weights import Gpt2WeightsParams, checkpoint
from gpt2.pipeline.stage import EXAMPLES, as_program, framed


@click.command(epilog=EXAMPLES.format("own-files"))
@click.option("--params", "params_path", type=click.Path(path_type=Path), default="params.yaml")
@click.option("--links-dir", type=click.Path(path_type=Path), required=True)
def main(params_path: Path, links_dir: Path) -> None:
    """Link your own files that the parameters name, so that DVC notices their changes."""
    with framed("own-files") as root:
        corpus: CorpusParams = load(CorpusParams, params_path, "corpus")
        instructions: InstructionsParams = load(InstructionsParams, params_path, "instructions")
        judge: JudgeParams = load(JudgeParams, params_path, "judge")
        weights = load(Gpt2WeightsParams, params_path, "gpt2_weights")
        own = {
            "corpus.path": own_data("corpus", corpus, root),
            "instructions.path": own_data("instructions", instructions, root),
            "judge.model.file": own_judge(judge, root),
            "gpt2_weights.path": own_checkpoint(weights, root),
        }
        # All files are found before the first link changes.
        for name, found in own.items():
            link(links_dir / name, found, root)


def own_judge(params: JudgeParams, root: Path) -> OwnFiles | None:
    """The model file of the judge; None: it is not an own file.

    Raises:
        UserError: it does not exist, or is an output of the pipeline.
    """
    if not isinstance(params, LlamaCppParams) or not isinstance(params.model, FileModel):
        return None
    path = judge_files.own_file(params.model, root)
    return checked(OwnFiles("judge.model.file", path.parent, [path], False), root)


def own_checkpoint(params: Gpt2WeightsParams, root: Path) -> OwnFiles | None:
    """The files of the checkpoint in ``gpt2_weights``; None: no own checkpoint.

    Raises:
        UserError: as `own_judge`.
    """
    if params.size == "none" or params.source != "directory":
        return None
    folder = checkpoint(params, root)
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    return checked(OwnFiles("gpt2_weights.path", folder, paths, True), root)


if __name__ == "__main__":
    as_program(main)
