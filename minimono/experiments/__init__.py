"""The experiments: what the demo and the three tasks measure, judge, draw and write.

`four_ways` trains one network in four ways (`minimono demo`), `six_ways` compares six ways on a
task (`demos/task_*.py`). Both stand on `measurement`, `statistics`, `tables` and `pictures`, as the
scripts in `demos/` do.
"""
