"""The parts of the serving bench: its prompts, servers, load client, figures and report."""
