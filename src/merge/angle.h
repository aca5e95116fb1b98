// Angles by basic arithmetic and square roots alone, which IEEE 754 defines to the last bit: the
// trigonometric functions of C libraries differ there, and with them a merge's bytes.
#pragma once

namespace lego {

/// Sine of x in [0, pi], to about 1e-15.
double sine(double x);
/// Cosine of x in [0, pi], to about 1e-15.
double cosineOf(double x);
/// Angle in [0, pi] whose cosine is c in [-1, 1], to about 1e-15.
double arcCosine(double c);

}  // namespace lego
