//! What the filter answers, case by case.
