"""The sections ``corpus`` and ``instructions`` of params.yaml: one class for each source."""

from typing import Annotated

from pydantic import Field

from gpt2.data.sources.huggingface import HuggingfaceCorpus, HuggingfaceInstructions
from gpt2.data.sources.local_files import FileCorpus, FileInstructions
from gpt2.data.sources.package_docs import PackageDocsCorpus
from gpt2.data.sources.package_instructions import PackageDocsInstructions
from gpt2.data.sources.web_files import UrlCorpus, UrlInstructions

OwnCorpus = FileCorpus | UrlCorpus | HuggingfaceCorpus
"""A corpus of the user's own data."""

OwnInstructions = FileInstructions | UrlInstructions | HuggingfaceInstructions
"""Instructions of the user's own data."""

CorpusParams = Annotated[PackageDocsCorpus | OwnCorpus, Field(discriminator="source")]

InstructionsParams = Annotated[
    PackageDocsInstructions | OwnInstructions, Field(discriminator="source")
]
