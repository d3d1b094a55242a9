"""tiltjax: sample any exponential tilt p*(x) proportional to p_base(x) exp(r(x)), with weights that prove the answer."""
