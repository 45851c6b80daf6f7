"""From a prompt to an answer: settings, reveal rules, the sampling loop, and `generate`."""
