"""What people look at: a training run's log, pages about an evaluation and about training crops."""
