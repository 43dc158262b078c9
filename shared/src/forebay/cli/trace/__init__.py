"""``forebay trace``: one read with tracing on, and what was slow about it."""
