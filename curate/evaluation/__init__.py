"""LLaVA-Bench and its judges: questions answered by a model, the answers judged, the scores summed up."""
