"""GPT-2 from scratch: from text to a judged, instruction-following model."""
