"""The planner's input and output: immutable values, which decide nothing."""
