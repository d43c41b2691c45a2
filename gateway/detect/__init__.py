"""Pure detection: events in, verdicts and incidents out; event time only."""
