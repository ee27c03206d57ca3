//go:build race

package pypool

// raceDetector makes the memory tests smaller: each step costs twenty times as much, and the
// detector is not what they ask.
const raceDetector = true
