//go:build !race

package pypool

const raceDetector = false
