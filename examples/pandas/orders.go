package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
)

// makeOrders writes a CSV file of made-up orders, the same ones each time, and counts them while it
// does: in whole cents, without pandas and without floating point.
func makeOrders(path string, rows int) (*totals, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	random := rand.New(rand.NewPCG(3, 4))
	regions := []string{"north", "south", "east", "west"}
	sum := &totals{regions: map[string]sales{}}
	w := bufio.NewWriter(file)
	fmt.Fprintln(w, "order,region,quantity,price")
	for order := range rows {
		region := regions[random.IntN(len(regions))]
		quantity, cents := 1+random.Int64N(9), 99+random.Int64N(20_000)
		one := chunk{Rows: 1, Regions: map[string]sales{region: {1, quantity * cents}}}
		price := fmt.Sprintf("%d.%02d", cents/100, cents%100)
		if random.IntN(100) == 0 { // somebody forgot it
			one, price = chunk{Rows: 1, Skipped: 1}, ""
		}
		sum.add(one)
		fmt.Fprintf(w, "%d,%s,%d,%s\n", order, region, quantity, price)
	}
	if err := w.Flush(); err != nil {
		return nil, err
	}
	return sum, file.Close()
}
