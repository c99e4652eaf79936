"""Classes with the names and signatures of other projects, so that changing an import is enough.

`diffusion_ql.Diffusion`, `dpm_solver.{NoiseScheduleVP, model_wrapper, DPM_Solver}` and
`omar.ReplayBuffer`. Written from the papers and from the interfaces; no code of theirs is here.
"""
