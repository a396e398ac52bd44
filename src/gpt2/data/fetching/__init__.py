"""Files from elsewhere: the web, the Hugging Face hub, wheels of the package index."""
