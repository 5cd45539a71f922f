"""Documents in, hidden states out: what SAEs are trained and judged on."""
