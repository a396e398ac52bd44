"""Opens the judge that section ``judge`` describes."""

from pathlib import Path

from gpt2.evaluation.judge.backends.llamacpp import MODEL, LlamaCppJudge
from gpt2.evaluation.judge.backends.ollama import OllamaJudge
from gpt2.evaluation.judge.backends.openai_compatible import OpenAICompatibleJudge
from gpt2.evaluation.judge.params import JudgeParams, LlamaCppParams, LlamaEvalParams, OllamaParams
from gpt2.evaluation.judge.protocol import Judge


def open_judge(params: JudgeParams, directory: Path, evaluation: LlamaEvalParams) -> Judge:
    """A judge that is ready for prompts.

    Args:
        params: section ``judge``.
        directory: the judge's directory, which the download stage wrote.
        evaluation: section ``llama3_eval``.

    Raises:
        UserError: the model's file is missing, or the server does not answer or lacks the model.
    """
    if isinstance(params, LlamaCppParams):
        return LlamaCppJudge(directory / MODEL, params.threads, evaluation)
    if isinstance(params, OllamaParams):
        return OllamaJudge(params, evaluation)
    return OpenAICompatibleJudge(params, evaluation)
