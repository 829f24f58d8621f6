//! Error statistics.

use slm_quant_core::ErrorStats;

use crate::harness::Case;

pub(crate) fn case(case: &mut Case) {
    if case.op() != "error_metrics" {
        return case.unknown_op();
    }
    let mut stats = ErrorStats::default();
    stats.observe(&case.input("x"), &case.input("y")).unwrap();
    case.check("sqnr_db", &[stats.sqnr_db()]);
    case.check("sqnr_db_ref", &[stats.sqnr_db()]);
    case.check("mse_ref", &[stats.mse()]);
    case.check("max_abs_err", &[stats.max_abs_error()]);
}
