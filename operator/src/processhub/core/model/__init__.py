"""What planning reads and answers: immutable values. They decide nothing."""
