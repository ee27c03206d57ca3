package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// reading is what a sensor says once in a minute.
type reading struct {
	Sensor  string   `arrow:"sensor,dict"` // few names, many rows
	At      int64    `arrow:"at"`          // seconds since 1970
	Celsius *float64 `arrow:"celsius"`     // nil: it has said nothing
}

const sensors = 20

// measure makes so many readings up, the same each time, and says how many of them are far off.
func measure(rows int) (readings []reading, planted int) {
	random := rand.New(rand.NewPCG(1, 2))
	start := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC).Unix()
	for i := range rows {
		minute, sensor := i/sensors, i%sensors
		r := reading{Sensor: fmt.Sprintf("s%02d", sensor), At: start + 60*int64(minute)}
		celsius := 20 + 5*math.Sin(2*math.Pi*float64(minute)/(24*60)) + 0.1*random.NormFloat64()
		switch random.IntN(5000) {
		case 0:
			celsius += 40
			planted++
			r.Celsius = &celsius
		case 1, 2, 3: // silent
		default:
			r.Celsius = &celsius
		}
		readings = append(readings, r)
	}
	return readings, planted
}
