"""Networks that predict a registration, trained without ground truth (de Vos 2017 and 2019)."""
