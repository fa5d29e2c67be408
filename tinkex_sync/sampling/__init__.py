"""One sample from its submission to its result, its options, and the samples of many prompts."""
