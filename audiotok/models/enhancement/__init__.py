"""Speech enhancement: models that hear noisy speech and say the clean speech in it, by a codec's codes or without."""
