package pypool

var channelFaults []fault
