"""The judge that section ``judge`` names."""

from pathlib import Path

from gpt2.evaluation.judge.backends.llamacpp import MODEL, LlamaCppJudge
from gpt2.evaluation.judge.backends.ollama import OllamaJudge
from gpt2.evaluation.judge.backends.openai_compatible import OpenAICompatibleJudge
from gpt2.evaluation.judge.params import JudgeParams, LlamaCppParams, LlamaEvalParams, OllamaParams
from gpt2.evaluation.judge.protocol import Judge


def open_judge(params: JudgeParams, directory: Path, evaluation: LlamaEvalParams) -> Judge:
    """The judge, ready for prompts; ``directory`` is the one that the download stage wrote.

    Raises:
        UserError: the model's file is not there, or its server does not answer or lacks it.
    """
    if isinstance(params, LlamaCppParams):
        return LlamaCppJudge(directory / MODEL, params.threads, evaluation)
    if isinstance(params, OllamaParams):
        return OllamaJudge(params, evaluation)
    return OpenAICompatibleJudge(params, evaluation)
