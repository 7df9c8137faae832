"""Training: one fit for teacher and student, the losses, and the teacher's outputs."""
